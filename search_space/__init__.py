"""What a network may be: layers, architectures, spaces, their cost and how to build them.

Importing this package is cheap (no torch, no numpy): modules that need torch
(`search_space.build`) or onnx (`search_space.to_onnx`) are imported by name.
"""

from search_space.cost import Cost, cost_of
from search_space.errors import UserError
from search_space.layer import Kind, LayerSpec, Node
from search_space.lower import Segment, lower, lower_space
from search_space.space import ZERO, Architecture, BlockChoice, GatePath, SearchSpace, Slot, Stage
from search_space.space_file import available_spaces, load_space

__all__ = [
    "ZERO",
    "Architecture",
    "BlockChoice",
    "Cost",
    "GatePath",
    "Kind",
    "LayerSpec",
    "Node",
    "SearchSpace",
    "Segment",
    "Slot",
    "Stage",
    "UserError",
    "available_spaces",
    "cost_of",
    "load_space",
    "lower",
    "lower_space",
]
