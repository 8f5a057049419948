"""All that an appliance is, but for its models' weights, in one file, and back from it."""
