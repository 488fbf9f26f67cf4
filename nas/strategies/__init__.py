"""Search strategies: from a plan and data to ranked gate paths with trained weights. One a file."""
