"""What autograd keeps between forward and backward, counted as the experiments count it."""

from experiments.saved_activations import saved_activations

__all__ = ["saved_activations"]
