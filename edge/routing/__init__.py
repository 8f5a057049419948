"""Which target answers a request, who goes on where one failed, and what comes from the cache."""
