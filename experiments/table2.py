"""Table II: what one kind of block costs in training memory, in one network of 24 blocks.

Question   How much memory does a training step need with Skip, Conv, Swin, Hor and Quadra blocks, and with this
           project's training path, which stores a branch's input and little else?
Command    python -m experiments.table2 [widths=64,128] [batch=64]
           python -m experiments.table2 show
Cost       A GPU of 32 GiB or more: a minute. A CPU: two to four minutes; it counts what autograd keeps, and the whole
           step at the batch is then derived, not measured.
Expected   Order as published, skip < conv < quad < hor, but for Swin: by counting its blocks lie under Quadra's, and
           its published row is not reproduced. Derived totals at batch 64 lie 0.5 GB (C = 64) to 1.6 GB (C = 128)
           under the published ones, which hold context, workspaces and temporaries. A neuron that stores its input
           only brings the released block down to ConvBlock; the lean path undercuts the Skip block too, and costs a
           quadratic network no more than its linear twin.
Setting    Not stated by the authors but derived (the released code has these very networks; differences between
           published rows give batch 62): depths 2, 2, 18, 2, width C, 1000 classes, 224 pixels, FP32, AdamW.
           Published megabytes are read as MiB.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from experiments.command import run_experiment
from experiments.results import Results, Value, markdown, ratio, shown, take_provenance
from search_space.errors import UserError
from search_space.family import DEPTHS_24, NUM_CLASSES, RESOLUTION, linear_twin, quadranet
from search_space.lower import lower

if TYPE_CHECKING:
    from torch import nn

    from latency_models.options import Options

BATCH = 64  # the paper's, derived
OPTIONS = {
    "widths": "base widths C with commas between (default: 64,128)",
    "batch": f"images a step (default: {BATCH})",
}
BYTES_PER_PARAM = 16  # weight, gradient and AdamW's two moments
MIB = 2.0**-20
PUBLISHED_MB: dict[str, dict[int, int]] = {  # row -> base width -> megabytes; other rows and widths are not published
    "skip": {64: 5515, 128: 12027},
    "conv": {64: 7364, 128: 15711},
    "swin": {64: 12674, 128: 23472},
    "hor": {64: 10724, 128: 20715},
    "quad": {64: 8108, 128: 17191},
    "quad, X only": {64: 7794, 128: 16730},
}
MEANING = {
    "skip": "SkipBlock",
    "conv": "ConvBlock",
    "swin": "SwinBlock",
    "hor": "HorBlock",
    "quad": "QuadraBlock, as released: norms from elementary operations, both factors stored",
    "quad, X only": "QuadraBlock, as released but for a quadratic neuron that stores its input only; published: "
    "QuadraBlock* (QuadraLib)",
    "quad, plain path": "QuadraBlock, this project's modules one by one (`lean=False`)",
    "quad, lean path": "QuadraBlock, this project's training path: norms, GELUs and layer scales store nothing either",
    "conv, lean path": "ConvBlock, the same path",
}
HEADER = ("block", "C", "params M", "saved MiB/image", "derived MiB", "measured MiB", "reserved MiB", "published MB",
          "x conv, here", "x conv, published")  # fmt: skip


@dataclass(frozen=True)
class StepMemory:
    """Of training steps on a GPU: the most that tensors held at once, and that torch had reserved."""

    allocated_bytes: int
    reserved_bytes: int


def builders(width: int, resolution: int) -> dict[str, Callable[[], nn.Module]]:
    """What builds the network of every row."""
    from experiments.baselines.blocks import LAYER_SCALE
    from experiments.baselines.zoo import table2_network
    from search_space.build import Network

    quadratic = quadranet(f"table2-c{width}", width, DEPTHS_24)
    ours, twin = (lower(a, resolution, NUM_CLASSES) for a in (quadratic, linear_twin(quadratic)))
    made: dict[str, Callable[[], nn.Module]] = {
        block: partial(table2_network, block, width, resolution=resolution)
        for block in ("skip", "conv", "swin", "hor", "quad", "quad, X only")
    }
    made["quad, plain path"] = partial(Network, ours, layer_scale=LAYER_SCALE, lean=False)
    made["quad, lean path"] = partial(Network, ours, layer_scale=LAYER_SCALE, recompute_from=0)  # as at the batch
    made["conv, lean path"] = partial(Network, twin, layer_scale=LAYER_SCALE, recompute_from=0)  # as at the batch
    return made


def measure(options: Options, quick: bool, command: str) -> Results:
    """`quick`: C = 32 alone at 64 pixels."""
    from experiments.throughput import measured_device

    widths = tuple(map(int, _widths(options.names("widths", ("32",) if quick else ("64", "128")))))
    batch = options.integer("batch", 2 if quick else BATCH)
    resolution = 64 if quick else RESOLUTION
    device = measured_device()
    provenance = take_provenance(command, device)
    rows = []
    for width in widths:
        for name, make in builders(width, resolution).items():
            params, per_image, fixed = saved_memory(make(), resolution)
            step = step_memory(make(), batch, resolution) if device == "cuda" else None
            row: dict[str, Value] = {
                "block": name,
                "meaning": MEANING[name],
                "width": width,
                "params": params,
                "saved_bytes_per_image": per_image,
                "saved_bytes_fixed": fixed,
                "derived_bytes": fixed + batch * per_image + BYTES_PER_PARAM * params,
                "measured_bytes": step.allocated_bytes if step else None,
                "reserved_bytes": step.reserved_bytes if step else None,
                "published_mb": PUBLISHED_MB.get(name, {}).get(width),
            }
            rows.append(row)
    settings: dict[str, Value] = {"device": device, "batch": batch, "resolution": resolution, "quick": quick}
    return Results("table2", provenance, settings, tuple(rows))


def _widths(texts: Sequence[str]) -> Sequence[str]:
    for text in texts:
        if not text.isdecimal() or int(text) < 32 or int(text) % 32:
            raise UserError(f"widths={text}: a base width is a multiple of 32 (Swin's heads)")
    return texts


def saved_memory(network: nn.Module, resolution: int) -> tuple[int, int, int]:
    """Parameters, bytes that autograd keeps for each further image, and those that no batch changes.

    The last are, for one, the scaled weights that a lean branch keeps. Counted on a CPU from steps of 2 and 3 images of
    `resolution` pixels: a single one may be laid out otherwise.
    """
    import torch

    from experiments.saved_activations import saved_bytes

    two, three = (saved_bytes(network, torch.randn(n, 3, resolution, resolution)) for n in (2, 3))
    per_image = three - two
    return sum(p.numel() for p in network.parameters()), per_image, two - 2 * per_image


def step_memory(network: nn.Module, batch: int, resolution: int) -> StepMemory:
    """Of two whole training steps on the GPU in FP32 (forward, backward, AdamW).

    A step before them tunes kernels and makes the optimizer's moments. Raises `UserError` where a step of `batch`
    images does not fit the GPU.
    """
    import torch
    from torch.nn import functional

    network = network.cuda().train()
    optimizer = torch.optim.AdamW(network.parameters())
    images = torch.randn(batch, 3, resolution, resolution, device="cuda")
    labels = torch.randint(NUM_CLASSES, (batch,), device="cuda")
    try:
        for step in range(3):
            if step == 1:
                gc.collect()
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.synchronize()
    except torch.OutOfMemoryError as error:
        raise UserError(f"a step of {batch} images does not fit this GPU; give a smaller batch=") from error
    return StepMemory(torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())


def render(results: Results) -> str:
    """The table of a results file as Markdown; 'x conv' compares with ConvBlock at the same width."""
    convs = {row["width"]: row for row in results.rows if row["block"] == "conv"}
    on_gpu = results.settings["device"] == "cuda"
    lines = []
    for row in results.rows:
        conv, memory = convs[row["width"]], "measured_bytes" if on_gpu else "derived_bytes"
        lines.append(
            (
                str(row["block"]),
                shown(row["width"]),
                shown(row["params"], 2, 1e-6),
                shown(row["saved_bytes_per_image"], 2, MIB),
                shown(row["derived_bytes"], 0, MIB),
                shown(row["measured_bytes"], 0, MIB),
                shown(row["reserved_bytes"], 0, MIB),
                "-" if row["published_mb"] is None else shown(row["published_mb"]),
                shown(ratio(row[memory], conv[memory]), 3),
                "-" if row["published_mb"] is None else shown(ratio(row["published_mb"], conv["published_mb"]), 3),
            )
        )
    meanings = "\n".join(
        f"- {block}: {text}" for block, text in {r["block"]: r["meaning"] for r in results.rows}.items()
    )
    return (
        f"Training memory, depths 2, 2, 18, 2, {results.settings['resolution']} pixels, FP32, AdamW, batch "
        f"{results.settings['batch']}. Saved: what autograd keeps, counted exactly. Derived: saved x batch + "
        f"{BYTES_PER_PARAM} bytes a parameter, without workspaces and temporaries; 'x conv, here' compares "
        f"{'measured' if on_gpu else 'derived'} ones.\n{results.provenance}\n\n{markdown(HEADER, lines)}\n\n{meanings}"
        f"{_with_published_rest(results)}"
    )


def _with_published_rest(results: Results) -> str:
    """What the lean path would need on the paper's machine, by adding what ConvBlock needed there beyond the count."""
    if (results.settings["batch"], results.settings["resolution"]) != (BATCH, RESOLUTION):
        return ""
    derived = {(row["block"], row["width"]): float(str(row["derived_bytes"])) * MIB for row in results.rows}
    words = ""
    for width, conv in PUBLISHED_MB["conv"].items():
        if ("conv", width) in derived:
            rest = conv - derived["conv", width]
            lean, star = derived["quad, lean path", width] + rest, PUBLISHED_MB["quad, X only"][width]
            words += (
                f"\n\nC = {width}: the published ConvBlock needs {rest:.0f} MB beyond what is derived; with as much "
                f"added, QuadraBlock in the lean path would need {lean:.0f} MB, {lean / star:.2f} of QuadraBlock*."
            )
    return words


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("table2", OPTIONS, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
