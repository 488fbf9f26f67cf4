"""Training recipes that can be named with recipe=NAME."""
