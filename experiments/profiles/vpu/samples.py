"""What was measured on the Myriad X, as samples: single layers, micro-benchmarks and whole networks.

A sample's group is the network it was counted in, or the family of a whole network. Not for fitting (`fit`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from device_profiles import IMAGE_CHANNELS, Lanes
from experiments.profiles.networks import mobilenet_v1, mobilenet_v2, vgg
from experiments.profiles.tables import (
    A76_OPS,
    MILLION,
    MYRIAD_LAYERS,
    MYRIAD_MICRO,
    GroupedConv,
    MovedElements,
    Op,
    Row,
    a76_network_ops,
    read_rows,
)
from experiments.profiles.vpu.frames import (
    SMALLEST,
    fit_frames,
    frames_per_second,
    image_elements,
    side,
    synchronous_ms,
)
from experiments.profiles.vpu.networks import (
    MOBILENET_V3_LARGE,
    MOBILENET_V3_SMALL,
    densenet,
    efficientnet_b0,
    mobilenet_v3,
    resnet,
    squeezenet_1_1,
)
from latency_models.fit.regression import Form, Sample, Terms
from latency_models.neural_engine import EngineConv

IMAGE = "image"
LANES = Lanes()  # the engine's rounding is in its modes (`neural_engine`)
_ENGINE = {
    "launch": "launch",
    "engine_cycles": "cycle",
    "input_elements": "input",
    "output_elements": "output",
    "weights": "weight",
    "striped_elements": "striped",
}
# The neural engine runs convolutions and poolings; the vector cores (SHAVEs) the rest. A coefficient that no single
# layer shows ("image": the call and the transfer of the image) is set on whole networks.
FORM: Form = {
    "conv_1x1": _ENGINE,
    "conv_kxk": _ENGINE,
    "conv_image": {
        "launch": "launch_shave",
        "output_elements": "output_image",
        "macs": "mac_image",
        "input_elements": IMAGE,
    },
    "dwconv": {"launch": "launch_shave", "input_elements": "input_dw", "further_line_inputs": "line_dw"},
    "linear": {"launch": "launch_linear", "weights": "weight_linear"},
    "add": {"launch": "launch_shave", "output_elements": "output_add"},
    "mul": {"launch": "launch_shave", "output_elements": "output_add"},
    "global_pool": {"launch": "launch", "input_elements": "input_global", "wide_pool_elements": "input_wide"},
}
# annette: element-wise layers and ReLU run at 2.9-3.4 GB/s, the bytes of one tensor in and one out, additions too.
ELEMENT_WISE_GB_PER_S = sqrt(2.9 * 3.4)
TOUCHES = 2
VECTOR_POOL_GB_PER_S = 0.58  # annette: poolings that the vector cores run, the bytes in
BYTES = 2  # fp16
BANDWIDTH_WEIGHT = 30.0  # a bandwidth stands for many rows
_CONV_COLUMNS = ("in_c", "out_c", "in_h", "in_w", "out_h", "out_w", "kh", "kw", "stride")
COUNTED = {"googlenet-v1": "tf_inceptionv1", "googlenet-v3": "cf_inceptionv3", "googlenet-v4": "cf_inceptionv4"}


@dataclass(frozen=True)
class Measured:
    """Samples by kind of measurement. engine: those of `layers` that are convolutions on the neural engine."""

    layers: list[Sample]
    engine: list[Sample]
    micro: list[Sample]
    networks: list[Sample]


def measured(folder: Path) -> Measured:
    """All samples of the Myriad's tables. Raises `BadFile`."""
    layers = layer_samples(read_rows(folder, MYRIAD_LAYERS))
    return Measured(
        layers=layers,
        engine=[sample for sample in layers if sample.name == "engine"],
        micro=_micro_samples(read_rows(folder, MYRIAD_MICRO)),
        networks=_network_samples(folder, layers),
    )


def moved(terms: Terms, op: MovedElements, count: int = 1) -> None:
    """Poolings (neural engine), concatenations and element-wise passes (vector cores)."""
    terms.add_value("launch" if op.op == "pool" else "launch_shave", count)
    elements = count * op.elements / MILLION
    terms.add_value("output_add" if op.op == "pass" else f"moved_{op.op}", elements)


def layer_samples(layers: Iterable[Row]) -> list[Sample]:
    """Convolutions, poolings and concatenations. Windows may be 1x7 or 7x1, so features are formed here."""
    found = []
    for row in filter(uses_layer, layers):
        terms = Terms(FORM, LANES)
        layer = row.text("ov_type")
        if layer == "Convolution":
            _convolution(terms, row)
        elif layer == "Pooling" and row.integer("out_h") == 1:
            terms.add_value("launch", 1)
            terms.add_value("input_global", _volume(row, "in") / MILLION)
        else:
            moved(terms, MovedElements("pool" if layer == "Pooling" else "concat", _volume(row, "out")))
        engine = layer == "Convolution" and "HwOp" in row.text("exec_type")
        name = "engine" if engine else "other"
        found.append(Sample(name, terms.values, row.number("time_ms"), group=row.text("model")))
    return found


def _convolution(terms: Terms, row: Row) -> None:
    conv = EngineConv(*(row.integer(name) for name in _CONV_COLUMNS))
    pixels = conv.out_height * conv.out_width
    if conv.in_channels <= IMAGE_CHANNELS:
        values = {
            "launch_shave": 1.0,
            "output_image": conv.out_channels * pixels / MILLION,
            "mac_image": conv.weights * pixels / MILLION,
        }
    else:
        values = {
            "launch": 1.0,
            "cycle": conv.cycles / MILLION,
            "input": _volume(row, "in") / MILLION,
            "output": conv.out_channels * pixels / MILLION,
            "weight": conv.weights / MILLION,
            "striped": conv.striped_elements / MILLION,
        }
    for name, value in values.items():
        terms.add_value(name, value)


def _volume(row: Row, side: str) -> int:
    return row.integer(f"{side}_c") * row.integer(f"{side}_h") * row.integer(f"{side}_w")


def _micro_samples(micro: Sequence[Row]) -> list[Sample]:
    """Fully connected and depthwise rows, the latter grouped by their size, and the bandwidths of the vector cores."""
    found = []
    for row in filter(uses_micro, micro):
        terms, group = Terms(FORM, LANES), "micro"
        if row.text("kind") == "fully_connected":
            terms.add_value("launch_linear", 1)
            terms.add_value("weight_linear", row.number("channels") * row.number("filters") / MILLION)
        else:
            group = f"depthwise {row.integer('k')}"
            terms.add_value("launch_shave", 1)
            terms.add_value("line_dw", (row.number("k") - 1) * row.number("num_inputs") / MILLION)
            terms.add_value("input_dw", row.number("num_inputs") / MILLION)
        found.append(Sample(row.text("kind"), terms.values, row.number("time_ms"), group=group))
    a_pass, a_pool = TOUCHES * BYTES / ELEMENT_WISE_GB_PER_S, BYTES / VECTOR_POOL_GB_PER_S  # ms a million elements
    return [
        *found,
        Sample("element-wise", {"output_add": 1.0}, a_pass, BANDWIDTH_WEIGHT, "micro"),
        Sample("pooling", {"input_global": 1.0, "input_wide": 1.0}, a_pool, BANDWIDTH_WEIGHT, "micro"),
    ]


def _network_samples(folder: Path, layers: Sequence[Sample]) -> list[Sample]:
    """Synchronous times where there are some, else frames/s turned into a latency."""
    sync_ms, fps, frames = synchronous_ms(folder), frames_per_second(folder), fit_frames(folder)
    found = []
    for (family, name), ops in _listed(folder).items():
        latency_ms = sync_ms[name] if name in sync_ms else frames.latency_ms(fps[name], side(name))
        found.append(Sample(name, network_terms(name, ops), latency_ms, group=family))
    for name, model in COUNTED.items():
        terms: Counter[str] = Counter({IMAGE: image_elements(side(name)) / MILLION})
        for sample in layers:
            if sample.group == model:
                terms.update(sample.terms)
        found.append(Sample(name, dict(terms), sync_ms[name], group="googlenet"))
    return found


def uses_layer(row: Row) -> bool:
    """Whether a row of the layer counters is a sample: convolutions, poolings and concatenations."""
    return row.text("ov_type") in ("Convolution", "Pooling", "Concat")


def uses_micro(row: Row) -> bool:
    """Whether a micro-benchmark row is a sample.

    The convolution rows hold a call's overhead (0.076 ms for one pixel, where networks hold whole layers of 0.02 ms)
    and are left out.
    """
    return row.text("kind") in ("fully_connected", "depthwise_conv")


def named_networks(folder: Path) -> frozenset[str]:
    """dl-benchmark's names of the networks in use: those whose layers are known here, and the one of least time."""
    return frozenset({name for _, name in _listed(folder)} | set(COUNTED) | {SMALLEST})


def _listed(folder: Path) -> Mapping[tuple[str, str], Sequence[Op]]:
    """Every network there whose layers are known here: (family, dl-benchmark's name) -> kernels.

    Only those whose frames/s agree between releases within 20 %.
    """
    ops = read_rows(folder, A76_OPS)
    return {
        **{("densenet", f"densenet-{depth}"): densenet(depth) for depth in (121, 161, 169, 201)},
        **{("resnet", f"resnet-{depth}"): resnet(depth) for depth in (50, 101, 152)},
        **{("resnet", f"resnet-{depth}-pytorch"): resnet(depth) for depth in (18, 34)},
        **{("vgg", f"vgg{depth}"): vgg(depth) for depth in (16, 19)},
        ("squeezenet", "squeezenet1.0"): list(a76_network_ops(ops, "squeezenet_v1_0")),
        ("squeezenet", "squeezenet1.1"): squeezenet_1_1(),
        ("googlenet", "googlenet-v2"): list(a76_network_ops(ops, "bninception")),
        ("mobilenet-v1", "mobilenet-v1-0.25-128"): mobilenet_v1(0.25, 128),
        ("mobilenet-v1", "mobilenet-v1-0.50-160"): mobilenet_v1(0.5, 160),
        ("mobilenet-v1", "mobilenet-v1-0.50-224"): mobilenet_v1(0.5, 224),
        ("mobilenet-v1", "mobilenet-v1-1.0-224"): mobilenet_v1(1.0, 224),
        ("mobilenet-v2", "mobilenet-v2-1.0-224"): mobilenet_v2(1.0, 224),
        ("mobilenet-v2", "mobilenet-v2-1.4-224"): mobilenet_v2(1.4, 224),
        ("mobilenet-v3", "mobilenet-v3-large-1.0-224-tf"): mobilenet_v3(MOBILENET_V3_LARGE, 960, 1280),
        ("mobilenet-v3", "mobilenet-v3-small-1.0-224-tf"): mobilenet_v3(MOBILENET_V3_SMALL, 576, 1024),
        ("efficientnet", "efficientnet-b0"): efficientnet_b0(),
        ("se-resnet", "se-resnet-50"): resnet(50, squeezes=True),
    }


def network_terms(name: str, ops: Sequence[Op]) -> dict[str, float]:
    """A network's features by coefficient. Raises `ValueError` for a grouped convolution."""
    terms = Terms(FORM, LANES)
    for op in ops:
        match op:
            case MovedElements():
                moved(terms, op)
            case GroupedConv():
                raise ValueError(f"network '{name}' has a grouped convolution, which the form does not price")
            case _:
                terms.add(op)
    return terms.values
