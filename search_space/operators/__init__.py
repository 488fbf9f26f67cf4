"""Quadratic operators in torch: neuron forms, training that stores little, converting trained networks.

Modules are imported by name; `search_space` itself stays free of torch.
"""
