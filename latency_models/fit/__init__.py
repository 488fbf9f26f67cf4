"""From measurements to the models and rows of a profile: kernels timed alone, or a few whole networks. Needs scipy."""
