"""The command `python -m nas.build ARCHITECTURE.json`: rebuild a found network and say what it is.

With weights.safetensors beside the file they are loaded. `--onnx FILE` writes the graph at any
resolution, `--latency` prices it on every known device. Not for training: see `nas.train`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from latency_models.support import derived_words
from nas.command.options import as_command
from nas.run.result import ALONE, FOR_TIMING, SearchResult, load_result_or_architecture, result_of
from search_space import cost_of, lower
from search_space.files import write_whole

if TYPE_CHECKING:
    from search_space.build import Network


def build(path: str | Path, weights: str | Path | None = None) -> tuple[SearchResult, Network]:
    """The result in architecture.json and its network, with weights where a file is given or lies beside it.

    A file may hold an architecture alone; the number of classes is then the weights'. Raises `BadFile` for files that
    cannot be used.
    """
    from nas.run.export import classes_in, load_network  # torch

    result, file = load_result_or_architecture(Path(path)), _weights(Path(path), weights)
    if ALONE in result.notes and file is not None and (classes := classes_in(file)):
        result = result_of(result.architecture, classes)
    return result, load_network(result, file)


def _weights(path: Path, weights: str | Path | None) -> Path | None:
    beside = path.with_name("weights.safetensors")
    return Path(weights) if weights is not None else beside if beside.is_file() else None


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m nas.build", description="Rebuild a found network.")
    parser.add_argument("architecture", type=Path, help="architecture.json of a run, or an architecture alone")
    parser.add_argument("--weights", type=Path, help="safetensors file (default: the one beside the JSON, if any)")
    parser.add_argument("--resolution", type=int, help="pixels for counts, latency and ONNX (default: deployment's)")
    parser.add_argument("--onnx", type=Path, help="write the graph here")
    parser.add_argument("--latency", action="store_true", help="predict latency on every known device")
    with as_command():
        _report(parser.parse_args())


def _report(options: argparse.Namespace) -> None:
    result, network = build(options.architecture, options.weights)
    weighted, alone = _weights(options.architecture, options.weights) is not None, ALONE in result.notes
    resolution = result.resolution.deployment if options.resolution is None else options.resolution
    segments = lower(result.architecture, resolution, result.num_classes)
    cost = cost_of(segments)
    assert cost.params == sum(p.numel() for p in network.parameters())
    print(
        f"{result.architecture.space.name}: {result.architecture}\n"
        f"{cost.macs / 1e6:.1f}M MACs at {resolution} pixels, {cost.params / 1e6:.3f}M params, "
        f"{cost.peak_activation_bytes / 2**20:.2f} MiB peak activation (fp32), {result.num_classes} classes, "
        f"{'weights loaded' if weighted else 'no weights: random ones'}"
    )
    if alone:
        print(f"note: {ALONE}" + ("" if weighted else f", counts are with {result.num_classes} classes"))
    if options.latency:
        from nas.run.chosen import LatencyModels

        priced, left_out = LatencyModels().everywhere(segments)
        for name, p in priced.items():
            interval = f"{p.coverage:.0%} interval {p.low_ms:.3g}..{p.high_ms:.3g}"
            words = "; ".join(filter(None, (interval, derived_words(p.derived), p.title)))
            print(f"{name}: {p.latency_ms:.4g} ms ({words})")
        print("".join(f"note: {note}\n" for note in left_out), end="")
    if options.onnx:
        from search_space.to_onnx import to_onnx

        trained = weighted and not alone and resolution == result.resolution.training
        purpose = "trained and accurate at this resolution" if trained else FOR_TIMING
        arrays = {key: value.numpy() for key, value in network.state_dict().items()}
        about = {"purpose": purpose, "architecture": str(result.architecture), "resolution": str(resolution)}
        metadata = {**about, **result.input.metadata()}
        write_whole(options.onnx, to_onnx(segments, arrays, metadata).SerializeToString(deterministic=True))
        print(f"-> {options.onnx} ({purpose})")


if __name__ == "__main__":
    main()
