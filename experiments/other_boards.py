"""What published times of boards without a profile say of the shipped profiles, and whether they would make one.

Question   A Raspberry Pi 5 has four Cortex-A76 cores at 2.4 GHz; the A76's profiles are one core at 2.84 or 2.42 GHz
           under an older runtime. Does one factor for each carry them over? And does a mix of the shipped profiles,
           as `latency_models.profile few=` makes one, give the times on a Snapdragon's NPU?
Command    python -m experiments.other_boards
           python -m experiments.other_boards show
Cost       Seconds; nothing is trained or timed.
Expected   Factors well below 1 on the Pi, as its times are of up to four cores under XNNPACK of 2025-26, and not equal
           ones. On the NPU most networks come within 20 %, and some far from it.
Reading    `without itself`: the network's time by the others of its board and precision, and how far that is off: by
           the geometric mean of their factors, or by a mix of profiles fitted to them. A profile would be made only if
           each were within 15 %. The Pi's sources state no threads. `few=` itself reads networks of this project's
           spaces, of which the NPU's table has MobileNetV2 alone; so layers are priced here, one by one.
Sources    PI, NPU. Times of the A76 are its networks' in experiments/profiles/data, or predictions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean
from typing import TYPE_CHECKING

from experiments.command import run_experiment
from experiments.results import Results, Row, markdown, profile_digests, shown, take_provenance

if TYPE_CHECKING:
    from experiments.profiles.cpu.networks import Variant
    from experiments.profiles.tables import Op
    from latency_models import LatencyModel
    from latency_models.options import Options

MOST = 0.15  # off, of every network, for a profile
HEADER = ("board", "network", "precision", "ms there", "by", "its ms", "from", "factor", "without itself ms", "off")
PI5 = "Raspberry Pi 5"
S24 = "Galaxy S24 (Snapdragon 8 Gen 3), NPU"
SQUEEZENET = "squeezenet-1-0-int8-xnnpack-executorch-raspberrypi5"
LEARN = "learn.arm.com/courses/executorch-on-arm (module 2), median of 50"
CARD = "huggingface.co/Arm/{}, p50"
AI_HUB = "quic/ai-hub-models @52c080d2 (BSD-3), QNN, QAIRT 2.42"


@dataclass(frozen=True)
class OnBoard:
    """A time on a board, ms, and what the A76's table calls the network, where it has it."""

    network: str
    precision: str
    ms: float
    source: str
    a76: str | None = None


PI = (
    OnBoard("MobileNetV2", "fp32", 10.88, LEARN, "mobilenetv2b_w1"),
    OnBoard("MobileNetV2", "int8", 3.98, LEARN, "mobilenetv2b_w1"),
    OnBoard("SqueezeNet 1.0", "fp32", 20.22, CARD.format(SQUEEZENET), "squeezenet_v1_0"),
    OnBoard("SqueezeNet 1.0", "int8", 5.09, CARD.format(SQUEEZENET), "squeezenet_v1_0"),
    OnBoard("ResNet-18", "fp32", 31.59, CARD.format("resnet-18-int8-xnnpack-executorch")),
    OnBoard("ResNet-18", "int8", 8.751, CARD.format("resnet-18-int8-xnnpack-executorch")),
    OnBoard(
        "DeiT-Tiny", "int8", 26.40, CARD.format("deit-tiny-int8-xnnpack-executorch"), "deit-tiny-distilled-patch16-224"
    ),
)
"""ExecuTorch with XNNPACK; facts that their makers state, 2026, of networks in the A76's table or in `layers_of`."""
NPU = tuple(
    OnBoard(network, precision, ms, AI_HUB)
    for precision, times in (
        (
            "float",
            {
                "MobileNetV2": 0.603,
                "MobileNetV3-Small": 0.556,
                "MobileNetV3-Large": 0.683,
                "EfficientNet-B0": 1.076,
                "SqueezeNet 1.1": 0.446,
                "ResNet-18": 0.929,
                "ResNet-50": 1.638,
                "ResNet-101": 2.406,
                "DenseNet-121": 1.24,
                "ConvNeXt-T": 2.665,
            },
        ),
        (
            "w8a8",
            {
                "MobileNetV2": 0.326,
                "SqueezeNet 1.1": 0.263,
                "ResNet-18": 0.405,
                "ResNet-50": 0.687,
                "ResNet-101": 0.986,
                "DenseNet-121": 1.717,
            },
        ),
    )
    for network, ms in times.items()
)
"""Whole on the NPU; the table's rows of networks in `layers_of`."""


def measure(options: Options, quick: bool, command: str) -> Results:
    """The same whether `quick` or not."""
    from experiments.profiles import DEVICES
    from experiments.profiles.cpu.networks import FP32, FP32_2420MHZ, INT8

    rows = [
        *_by_one(FP32, [one for one in PI if one.precision == "fp32"]),
        *_by_one(FP32_2420MHZ, [one for one in PI if one.precision == "fp32"]),
        *_by_one(INT8, [one for one in PI if one.precision == "int8"]),
        *(row for precision in ("float", "w8a8") for row in _by_mix([o for o in NPU if o.precision == precision])),
    ]
    return Results("other_boards", take_provenance(command, "cpu"), dict(profile_digests(DEVICES)), tuple(rows))


def _row(board: str, one: OnBoard, by: str, known_ms: float, origin: str, without_ms: float) -> Row:
    row: dict[str, str | float] = {"board": board, "network": one.network, "precision": one.precision, "ms": one.ms}
    row |= {"by": by, "known_ms": round(known_ms, 4), "from": origin, "without_ms": round(without_ms, 4)}
    return {**row, "source": one.source}


def _by_one(variant: Variant, times: Sequence[OnBoard]) -> Iterator[Row]:
    """The Pi beside one profile of the A76: one factor from the other networks."""
    found = [on_a76(one, variant) for one in times]
    for number, (one, (ms, origin)) in enumerate(zip(times, found, strict=True)):
        others = [o.ms / a76 for other, (o, (a76, _)) in enumerate(zip(times, found, strict=True)) if other != number]
        yield _row(PI5, one, variant.device, ms, origin, ms * geometric_mean(others))


def _by_mix(times: Sequence[OnBoard]) -> Iterator[Row]:
    """The NPU beside a mix of all shipped profiles and a constant, fitted to all networks and to the others."""
    import numpy as np

    from device_profiles import load_profile
    from experiments.profiles import DEVICES
    from latency_models import fit_latency_model
    from latency_models.fit.whole_networks import mix

    models = [fit_latency_model(load_profile(device)) for device in DEVICES]
    layers = layers_of()
    known = np.array([[priced_ms(model, layers[one.network]()) for one in times] for model in models])
    measured = np.array([one.ms for one in times])

    def mixed_ms(of: int, fitted: list[int]) -> float:
        weights, constant = mix(known[:, fitted], measured[fitted])
        return float(weights @ known[:, of] + constant)

    everything = list(range(len(times)))
    for number, one in enumerate(times):
        others = [other for other in everything if other != number]
        both = mixed_ms(number, everything), mixed_ms(number, others)
        yield _row(S24, one, f"a mix of {len(models)} profiles", both[0], "fitted to all", both[1])


def on_a76(one: OnBoard, variant: Variant) -> tuple[float, str]:
    """Milliseconds on one core of the A76 by a variant, and whether measured or predicted."""
    from device_profiles import load_profile
    from experiments.profiles import DATA
    from experiments.profiles.tables import A76_NETWORKS, A76_TRANSFORMERS, read_rows
    from latency_models import fit_latency_model

    if one.a76 is None:
        model = fit_latency_model(load_profile(variant.device))
        return priced_ms(model, layers_of()[one.network]()), "predicted"
    rows = (row for table in (A76_NETWORKS, A76_TRANSFORMERS) for row in read_rows(DATA, table))
    return next(row.number(variant.column) for row in rows if row.text("model") == one.a76), "measured"


def layers_of() -> Mapping[str, Callable[[], list[Op]]]:
    """Networks whose layers are listed here, by name."""
    from experiments.profiles.networks import convnext_tiny, mobilenet_v2
    from experiments.profiles.vpu import networks as listed

    return {
        "MobileNetV2": lambda: mobilenet_v2(1.0, 224),
        "MobileNetV3-Small": lambda: listed.mobilenet_v3(listed.MOBILENET_V3_SMALL, 576, 1024),
        "MobileNetV3-Large": lambda: listed.mobilenet_v3(listed.MOBILENET_V3_LARGE, 960, 1280),
        "EfficientNet-B0": listed.efficientnet_b0,
        "SqueezeNet 1.1": listed.squeezenet_1_1,
        "ResNet-18": lambda: listed.resnet(18),
        "ResNet-50": lambda: listed.resnet(50),
        "ResNet-101": lambda: listed.resnet(101),
        "DenseNet-121": lambda: listed.densenet(121),
        "ConvNeXt-T": convnext_tiny,
    }


def priced_ms(model: LatencyModel, ops: Sequence[Op]) -> float:
    """What a profile says of a list of layers, ms.

    Of tensors that are only moved the elements are known alone: a window pooling is taken for 3x3 at stride 2.
    """
    from device_profiles import Kernel
    from experiments.profiles.tables import MovedElements, square
    from search_space.layer import Kind, LayerSpec

    def kernel(op: Op) -> Kernel:
        match op:
            case Kernel():
                return op
            case MovedElements("pool"):
                return square(Kind.POOL, op.elements // 64, op.elements // 64, 8, 3, 2)
            case MovedElements("concat" | "pass"):
                kind = Kind.CONCAT if op.op == "concat" else Kind.RELU6
                return Kernel(LayerSpec(kind, op.elements, op.elements, 1, 1))
        raise ValueError(f"no kernel for {op}")

    return model.runtime_price.ms + sum(model.kernel_price(kernel(op)).ms for op in ops)


def off(row: Row) -> float:
    """By how much the time by the others is off, of 1."""
    return float(row["without_ms"] or 0) / float(row["ms"] or 1) - 1


def render(results: Results) -> str:
    """A line for every time, and for every board and precision whether they make a profile."""
    lines = [
        [
            str(row["board"]),
            str(row["network"]),
            str(row["precision"]),
            shown(row["ms"], 2),
            str(row["by"]),
            shown(row["known_ms"], 1 if row["board"] == PI5 else 2),
            str(row["from"]),
            shown(float(row["ms"] or 0) / float(row["known_ms"] or 1), 3),
            shown(row["without_ms"], 2),
            f"{100 * off(row):+.0f} %",
        ]
        for row in results.rows
    ]
    sets: dict[tuple[str, str, str], list[float]] = {}
    for row in results.rows:
        sets.setdefault((str(row["board"]), str(row["precision"]), str(row["by"])), []).append(abs(off(row)))
    verdicts = [
        f"- {board}, {precision}, by {by}: {'a' if max(found) <= MOST else 'no'} profile. A network is up to "
        f"{100 * max(found):.0f} % off by the others, on average {100 * fmean(found):.0f} %; n = {len(found)}."
        for (board, precision, by), found in sets.items()
    ]
    return "\n\n".join(
        [
            markdown(HEADER, lines),
            f"A profile would need each network within {100 * MOST:.0f} %. The Pi's sources state no threads.",
            "\n".join(verdicts),
            str(results.provenance),
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Work it out, or show what was found; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("other_boards", {}, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
