"""One run from settings to files: plan, search, checkpoint, result."""
