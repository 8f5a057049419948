"""Which models are loaded: on demand, within the memory that there is."""
