"""What the norm and the activation of quadratic blocks bring and cost: accuracy in equal training, and in int8.

Question   `quadranet_lite` has BatchNorm behind every convolution and ReLU6 where `quadranet` has LayerNorm ahead of
           its branches and GELU. Is a network of it as accurate after as many steps, and what does static int8 take
           from either, with the product of the quadratic neuron unbounded?
Command    python -m experiments.norms data=FOLDER [layers=layer_norm/gelu,batch_norm/relu6,batch_norm/hard_swish]
           [seeds=3] [epochs=3] [images=4800] [resolution=32] [first_seed=0]
           python -m experiments.norms show
Cost       40 to 60 seconds of one core for every training at 32 pixels.
Expected   Within a point of each other, which is what seeds scatter; int8 within half a point.
Setting    One network of eight blocks, one recipe, one order of batches a seed, nothing tuned. CIFAR-10; the first
           2,000 test images, in onnxruntime from the exported file. int8: quantize-dequantize, a scale per channel for
           weights, ranges as seen on 256 training images. The stem leaves maps of 8, 4, 2 and 1 pixels.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from experiments.command import run_experiment
from experiments.results import Results, Row, Value, markdown, shown
from search_space.errors import UserError
from search_space.lower import lower
from search_space.space import Architecture, parse_block
from search_space.space_file import load_space

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx
    from torch import Tensor

    from latency_models.options import Options
    from nas.data import DataSet

BLOCKS = "k3e3 k5e3 | k5e6 k3e3 | k7e3 k5e3 | k5e3 k3e6"
VALIDATION_SHARE, TEST_IMAGES, CALIBRATION_IMAGES = 0.2, 2000, 256
LAYERS = ("layer_norm/gelu", "batch_norm/relu6", "batch_norm/hard_swish")
OPTIONS = {
    "data": "folder of CIFAR-10, the binary version or packed (needed)",
    "layers": f"norm/activation, commas between (default: {','.join(LAYERS)})",
    "seeds": "trainings of every network (default: 3)",
    "first_seed": "the first of them (default: 0)",
    "epochs": "of every training (default: 3)",
    "images": "to train on (default: 4800)",
    "resolution": "pixels (default: 32)",
}
HEADER = ("norm, activation", "seeds", "test accuracy %", "int8 %", "int8 - fp32, points", "training loss")


def architecture(layers: str) -> Architecture:
    """The network with a norm and an activation, 'batch_norm/relu6'. Raises `UserError` when lowered."""
    norm, _, activation = layers.partition("/")
    space = replace(load_space("quadranet"), norm=norm, activation=activation)
    return Architecture(space, tuple(tuple(map(parse_block, blocks.split())) for blocks in BLOCKS.split("|")))


def measure(options: Options, quick: bool, command: str) -> Results:
    """`quick`: one epoch of 200 images, one seed."""
    import torch

    from experiments.results import take_provenance
    from nas.data import DataSettings, load

    chosen = options.names("layers", LAYERS)
    seeds, first = options.integer("seeds", 1 if quick else 3), options.integer("first_seed", 0)
    epochs, images = options.integer("epochs", 1 if quick else 3), options.integer("images", 200 if quick else 4800)
    resolution = options.integer("resolution", 32)
    for layers in chosen:
        lower(architecture(layers), resolution, 10)  # refused before the first training
    torch.set_num_threads(1)
    limit = round(images / (1 - VALIDATION_SHARE))
    data = load(DataSettings("cifar10", options.text("data"), validation_share=VALIDATION_SHARE, limit=limit))
    rows = []
    for seed in range(first, first + seeds):
        for layers in chosen:
            rows.append(train(layers, data, resolution, epochs, seed))
            print(rows[-1], file=sys.stderr)
    settings: dict[str, Value] = {
        "data": "CIFAR-10",
        "epochs": epochs,
        "images": len(data.train),
        "resolution": resolution,
    }
    return Results("norms", take_provenance(command, "cpu"), settings, tuple(rows))


def train(layers: str, data: DataSet, resolution: int, epochs: int, seed: int) -> Row:
    """A row: loss at the end of training (mean of 20 steps), accuracy of the exported file in float32 and int8."""
    import numpy as np
    import torch

    from nas.training.loop import train_network
    from nas.training.recipes import Recipe
    from search_space.build import Network
    from search_space.to_onnx import to_onnx

    segments = lower(architecture(layers), resolution, data.num_classes)
    torch.manual_seed(seed)
    network = Network(segments)
    losses: list[float] = []
    train_network(
        network,
        data,
        data.train,
        resolution,
        Recipe(epochs=epochs),
        seed,
        lambda step, epoch, loss: losses.append(loss),
    )
    model = to_onnx(segments, {name: value.numpy() for name, value in network.state_dict().items()})
    test = data.test.take(np.arange(min(TEST_IMAGES, len(data.test))))
    seen = data.train.take(np.arange(min(CALIBRATION_IMAGES, len(data.train))))
    with tempfile.TemporaryDirectory() as folder:
        int8 = quantized(model, data.batches(seen, resolution, 64), Path(folder))
        accuracies = [
            accuracy_of(content, data.batches(test, resolution, 250)) for content in (model.SerializeToString(), int8)
        ]
    return {"layers": layers, "seed": seed, "fp32": accuracies[0], "int8": accuracies[1], "loss": fmean(losses[-20:])}


class _Images:
    """What onnxruntime's calibration reads."""

    def __init__(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._feeds: Iterator[dict[str, Any]] = ({"images": images.numpy()} for images, _ in batches)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, None after the last."""
        return next(self._feeds, None)


def quantized(model: onnx.ModelProto, batches: Iterable[tuple[Tensor, Tensor]], folder: Path) -> bytes:
    """The model in static int8, batch norms folded first; batches: of images that ranges are taken from."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, folded, int8 = (str(folder / f"{name}.onnx") for name in ("plain", "folded", "int8"))
    onnx.save(model, plain)
    quant_pre_process(plain, folded, skip_symbolic_shape=True)
    quantize_static(
        folded,
        int8,
        _Images(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return Path(int8).read_bytes()


def accuracy_of(content: bytes, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Of an ONNX file in onnxruntime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    right = seen = 0
    for images, labels in batches:
        (logits,) = session.run(None, {"images": images.numpy()})
        right += int((logits.argmax(1) == labels.numpy()).sum())
        seen += len(labels)
    if not seen:
        raise UserError("there are no test images")
    return right / seen


def render(results: Results) -> str:
    """The table of a results file as Markdown."""
    found: dict[str, list[Row]] = {}
    for row in results.rows:
        found.setdefault(str(row["layers"]), []).append(row)
    lines = []
    for layers, rows in found.items():
        fp32, int8, loss = ([float(str(row[name])) for row in rows] for name in ("fp32", "int8", "loss"))
        apart = [100 * (b - a) for a, b in zip(fp32, int8, strict=True)]
        each = ", ".join(shown(value, 1, 100) for value in fp32)
        lines.append(
            (
                layers.replace("/", ", "),
                shown(len(rows)),
                f"{100 * fmean(fp32):.1f} ({each})",
                f"{100 * fmean(int8):.1f}",
                f"{fmean(apart):+.2f}, at worst {min(apart):+.2f}",
                f"{fmean(loss):.3f}",
            )
        )
    settings = results.settings
    return (
        f"{settings['data']} at {settings['resolution']} pixels, {settings['epochs']} epochs of {settings['images']} "
        f"images, {BLOCKS}; up to {TEST_IMAGES} test images; means, and every seed in brackets.\n"
        f"{results.provenance}\n\n"
        f"{markdown(HEADER, lines)}"
    )


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("norms", OPTIONS, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
