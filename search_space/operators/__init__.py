"""Quadratic operators in torch: neuron forms, training that stores little, converting trained networks.

    layers        QuadraticLinear, QuadraticConv2d: every neuron form, dense or depthwise
    quadratize    quadratize(model, names): trained layers become quadratic ones
    quadratic     the same neurons as functions of their weights

The rest serves these and `search_space.build`. Modules are imported by name; `search_space` itself stays free of torch.
"""
