"""What a person reads at the end of a search, from its results. Not the report (`nas.report`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.run.result import Accuracy, SearchResult, scale_note

if TYPE_CHECKING:
    from nas.run.finished import Finished


def summary(finished: Finished) -> str:
    """A line or more for every target, then where the page about several is."""
    lines = [one_network(target.result, target.folder) for target in finished.targets]
    if len(finished.targets) > 1:
        lines.append(f"{len(finished.targets)} targets -> {finished.folder / 'report.html'}")
    return "\n".join(lines)


def one_network(result: SearchResult, folder: Path) -> str:
    """The network, what it uses of the budget, its size and accuracy.

    Ahead of them a note where the interval reaches above the budget.
    """
    budget = result.budget
    assert budget is not None
    on_device = result.latency[budget.device]
    interval = f"{on_device.coverage:.0%} interval {on_device.low_ms:.3g}..{on_device.high_ms:.3g} ms"
    if budget.confidence:
        interval += f", its upper end kept at confidence {budget.confidence:g}"
    scale = scale_note(budget.calibration)
    lines = []
    if on_device.high_ms > budget.budget_ms * (1 + 1e-9) and not scale:
        lines.append(
            f"note: the prediction keeps the budget, but its {on_device.coverage:.0%} interval reaches "
            f"{on_device.high_ms:.3g} ms: time {folder / f'latency_{result.resolution.deployment}.onnx'} on the "
            "device, or ask for confidence=0.9"
        )
    lines.append(str(result.architecture))
    limits = "".join(f", limits.{name}={most:g} kept" for name, most in budget.limits.items())
    lines.append(
        f"{budget.device}: predicted {budget.predicted_ms:.4g} ms of {budget.budget_ms:g} ms ({budget.used:.1%} used; "
        f"{interval}{scale}), {result.cost.macs / 1e6:.0f}M MACs, {result.cost.params / 1e6:.2f}M params{limits}, "
        f"{_accuracy(result.accuracy)} -> {folder}"
    )
    return "\n".join(lines)


def _accuracy(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "accuracy not measured: no images at hand"
    return f"{accuracy.data} test accuracy {accuracy.test:.1%} (model.onnx, {accuracy.test_images} images)"
