"""What published times of a Raspberry Pi 5 say of `cpu` and `cpu_int8`, and whether they would make a profile.

Question   A Raspberry Pi 5 has four Cortex-A76 cores at 2.4 GHz; `cpu` and `cpu_int8` are one at 2.84 GHz under an
           older runtime. Does one factor for each precision carry them over?
Command    python -m experiments.raspberry_pi
           python -m experiments.raspberry_pi show
Cost       Seconds; nothing is trained or timed.
Expected   Factors well below 1, as the Pi's times are of up to four cores under XNNPACK of 2025-26, and not equal ones.
Reading    `without itself`: the network's time by the factor of the others of its precision (geometric mean), and how
           far that is off. A profile would be made from so few networks only if each were within 15 %. Threads are not
           stated by the sources.
Sources    PI. Those of the A76 are the networks' measured times in experiments/profiles/data, or predictions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import TYPE_CHECKING

from experiments.command import run_experiment
from experiments.results import Results, Row, markdown, profile_digests, shown, take_provenance

if TYPE_CHECKING:
    from latency_models.options import Options

MOST = 0.15  # off, of every network, for a profile
HEADER = ("network", "precision", "Pi 5 ms", "A76 ms", "from", "factor", "without itself ms", "off")
DEIT = "deit-tiny-distilled-patch16-224"
SQUEEZENET = "squeezenet-1-0-int8-xnnpack-executorch-raspberrypi5"
LEARN = "learn.arm.com/courses/executorch-on-arm (module 2), median of 50"
CARD = "huggingface.co/Arm/{}, p50"


@dataclass(frozen=True)
class OnPi:
    """A time on the Pi 5 under ExecuTorch with XNNPACK, ms, and what the A76's table calls the network."""

    network: str
    precision: str
    ms: float
    source: str
    a76: str | None


PI = (
    OnPi("MobileNetV2", "fp32", 10.88, LEARN, "mobilenetv2b_w1"),
    OnPi("MobileNetV2", "int8", 3.98, LEARN, "mobilenetv2b_w1"),
    OnPi("SqueezeNet 1.0", "fp32", 20.22, CARD.format(SQUEEZENET), "squeezenet_v1_0"),
    OnPi("SqueezeNet 1.0", "int8", 5.09, CARD.format(SQUEEZENET), "squeezenet_v1_0"),
    OnPi("ResNet-18", "fp32", 31.59, CARD.format("resnet-18-int8-xnnpack-executorch"), None),
    OnPi("ResNet-18", "int8", 8.751, CARD.format("resnet-18-int8-xnnpack-executorch"), None),
    OnPi(
        "DeiT-Tiny", "int8", 26.40, CARD.format("deit-tiny-int8-xnnpack-executorch"), "deit-tiny-distilled-patch16-224"
    ),
)
"""Facts that their makers state, 2026; those that the A76's table or a list of layers here has a network for."""


def measure(options: Options, quick: bool, command: str) -> Results:
    """The same whether `quick` or not."""
    found = [on_a76(one) for one in PI]
    factors = [one.ms / ms for one, (ms, _) in zip(PI, found, strict=True)]
    rows: list[Row] = []
    for number, (one, (ms, origin)) in enumerate(zip(PI, found, strict=True)):
        others = [
            factor
            for other, (of, factor) in enumerate(zip(PI, factors, strict=True))
            if of.precision == one.precision and other != number
        ]
        row: dict[str, str | float] = {"network": one.network, "precision": one.precision, "pi_ms": one.ms}
        row |= {"a76_ms": round(ms, 4), "from": origin, "source": one.source}
        rows.append({**row, "without_ms": round(ms * geometric_mean(others), 4)})
    settings = dict(profile_digests(("cpu", "cpu_int8")))
    return Results("raspberry_pi", take_provenance(command, "cpu"), settings, tuple(rows))


def on_a76(one: OnPi) -> tuple[float, str]:
    """Milliseconds on one core of the A76 in this precision, and whether measured or predicted."""
    from device_profiles import Kernel, load_profile
    from experiments.profiles import DATA
    from experiments.profiles.cpu.rebuilt import REBUILT
    from experiments.profiles.tables import read_rows
    from latency_models import fit_latency_model

    if one.a76 is None:
        model = fit_latency_model(load_profile("cpu" if one.precision == "fp32" else "cpu_int8"))
        kernels = [op for op in REBUILT["resnet18"]() if isinstance(op, Kernel)]
        return sum(model.kernel_price(kernel).ms for kernel in kernels), "predicted, without its max pool"
    column = f"a76_2840mhz_{one.precision}_ms"
    tables = (read_rows(DATA, f"a76_tflite_{kind}.csv") for kind in ("networks", "transformers"))
    return next(row.number(column) for rows in tables for row in rows if row.text("model") == one.a76), "measured"


def off(row: Row) -> float:
    """By how much the time by the others' factor is off, of 1."""
    return float(row["without_ms"] or 0) / float(row["pi_ms"] or 1) - 1


def render(results: Results) -> str:
    """A line for every time, and whether they make a profile."""
    lines = [
        [
            str(row["network"]),
            str(row["precision"]),
            shown(row["pi_ms"], 2),
            shown(row["a76_ms"], 1),
            str(row["from"]),
            shown(float(row["pi_ms"] or 0) / float(row["a76_ms"] or 1), 3),
            shown(row["without_ms"], 2),
            f"{100 * off(row):+.0f} %",
        ]
        for row in results.rows
    ]
    worst = max(abs(off(row)) for row in results.rows)
    verdict = "They make a profile" if worst <= MOST else "They make no profile"
    return (
        f"{markdown(HEADER, lines)}\n\n{verdict}: by the factor of the others a network is up to {100 * worst:.0f} % "
        f"off ({100 * MOST:.0f} % would do). Threads on the Pi are not stated.\n{results.provenance}"
    )


def main(arguments: Sequence[str]) -> int:
    """Work it out, or show what was found; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("raspberry_pi", {}, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
