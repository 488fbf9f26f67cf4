"""Turn layers of a trained first-order network into quadratic ones that start where the network stands.

As in QuadraNet V2 (arXiv 2405.03192): the linear part is the trained layer; the quadratic term starts at zero, by its
first factor, while the second is small and random, so that gradients move the first. Not for training: that is yours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.utils import parametrize

from search_space.errors import UnknownName, UserError
from search_space.operators.layers import Form, QuadraticConv2d, QuadraticLinear, form_of

FORMS = (Form.OURS, Form.T1_LINEAR)  # those with a linear part
STD = 0.02  # of the second factor's weights


def quadratize(
    model: nn.Module, names: str | Iterable[str], form: str = "ours", generator: torch.Generator | None = None
) -> nn.Module:
    """A copy of `model` whose named layers are quadratic; its outputs are exactly those of `model`.

    names: of linear and 2d convolution layers, or patterns such as 'stages.*.conv1' (fnmatch). generator: of the
    second factors' weights. form: 'ours' or, for small linear layers, 't1+linear'. What was frozen stays frozen as
    the linear part; the quadratic term trains. Raises `UnknownName` for a name that matches no such layer,
    `UserError` for a form or layer that cannot start there.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    >>> [type(layer).__name__ for layer in quadratize(model, ["0", "3"])]
    ['QuadraticConv2d', 'ReLU', 'Flatten', 'QuadraticLinear']
    """
    if form_of(form) not in FORMS:
        raise UserError(f"form '{form}' has no linear part for the trained weights; those with one: {', '.join(FORMS)}")
    model = copy.deepcopy(model)
    layers = dict(_layers(model))
    made: dict[nn.Module, nn.Module] = {}  # a layer that has two names stays one layer
    for name in [names] if isinstance(names, str) else names:
        matching = [known for known in layers if fnmatchcase(known, name)]
        if not matching:
            raise UnknownName("linear or convolution layer", name, layers)
        for known in matching:
            layer = layers[known]
            if layer not in made:
                made[layer] = _quadratic(known, layer, form_of(form), generator)
            if not known:
                return made[layer]  # the model itself is a layer
            parent, _, child = known.rpartition(".")
            setattr(model.get_submodule(parent), child, made[layer])
    return model


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """The layers by their names, all of them, but for parts of modules that need them as they are."""
    closed: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):  # parents come first
        if any(name.startswith(prefix) for prefix in closed):
            continue
        if isinstance(module, QuadraticLinear | QuadraticConv2d | nn.MultiheadAttention):
            closed.append(f"{name}." if name else "")
        elif isinstance(module, nn.Linear | nn.Conv2d):
            yield name, module


def _quadratic(
    name: str, layer: nn.Linear | nn.Conv2d, form: Form, generator: torch.Generator | None
) -> QuadraticLinear | QuadraticConv2d:
    """A quadratic layer around `layer`, which becomes its linear part."""
    if nn.parameter.is_lazy(layer.weight):
        raise UserError(f"layer '{name}' is a {type(layer).__name__} that has seen no input: run the model once first")
    if parametrize.is_parametrized(layer):
        raise UserError(f"layer '{name}' is parametrized ({type(layer).__name__}): remove that before quadratize")
    if form is Form.T1_LINEAR and type(layer) is not nn.Linear:
        raise UserError(f"layer '{name}' is a {type(layer).__name__}: form '{form}' is for plain linear layers")
    quadratic: QuadraticLinear | QuadraticConv2d
    with torch.device("meta"):  # its own maps are replaced: draw nothing for them
        if isinstance(layer, nn.Conv2d):
            quadratic = QuadraticConv2d(layer.in_channels, layer.out_channels, kernel_size=1, form=form)
        else:
            quadratic = QuadraticLinear(layer.in_features, layer.out_features, form)
    quadratic.c = layer
    if isinstance(quadratic, QuadraticLinear) and form is Form.T1_LINEAR:
        quadratic.full.to_empty(device=layer.weight.device).to(layer.weight.dtype)
        nn.init.zeros_(quadratic.full.weight)
    else:
        quadratic.a, quadratic.b = _zero_copy(layer), _zero_copy(layer)
        nn.init.normal_(quadratic.b.weight, std=STD, generator=generator)
    return quadratic.train(layer.training)


def _zero_copy(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """A layer of the same sizes that gives zero and trains."""
    zero = copy.deepcopy(layer)
    zero.zero_grad()
    for parameter in zero.parameters():
        nn.init.zeros_(parameter.requires_grad_(True))
    return zero
