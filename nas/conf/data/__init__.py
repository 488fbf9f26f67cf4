"""Data sets that can be named with data=NAME."""
