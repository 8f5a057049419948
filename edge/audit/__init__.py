"""Who asked what kind of thing when, and what became of it: a chained log that shows changes."""
