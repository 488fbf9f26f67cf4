"""The command that says how far a device's predictions are from its own rows, each left out.

    python -m latency_models.evaluate device=NAME [out=FOLDER]

Writes a table, every point as CSV, and a plot. The shipped devices are evaluated on public measurements, in a clone of
the project: `python -m experiments.profiles.evaluate`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from device_profiles import DeviceProfile, load_profile
from latency_models.fit.kernels import COVERAGE as KERNEL_COVERAGE
from latency_models.model import fit_latency_model
from latency_models.options import Options, run
from latency_models.residual import fit_residual
from latency_models.scores import Evaluation
from search_space.errors import UserError
from search_space.files import ensure_folder, write_whole
from search_space.tables import Column, Schema, make_table, render_table

USAGE = "usage: python -m latency_models.evaluate device=NAME [out=FOLDER]"
OPTIONS = {
    "device": "which predictor",
    "out": "where evaluation.md, points.csv and plot.svg go (default: ./evaluation-NAME)",
}
FEWEST_ROWS = 3
COLUMNS = ("set", "n", "MAPE %", "within 5 %", "within 10 %", "RMSE ms", "Spearman", "interval", "mark", "reached")

POINTS = Schema(
    "points.csv",
    (
        Column("set", "str", "name of the held-out set"),
        Column("name", "str", "the kernel or network"),
        Column("measured_ms", "float", "measured latency, ms", above=0),
        Column("predicted_ms", "float", "predicted without having seen it, ms"),
        Column("low_ms", "float", "lower end of the prediction's interval, ms", empty=True),
        Column("high_ms", "float", "upper end of the prediction's interval, ms", empty=True),
    ),
)


def evaluate(device: str) -> list[Evaluation]:
    """Every held-out set of a device. Raises `UserError` where it has no measured rows of its own."""
    profile = load_profile(device)
    if not any(row.origin == "measured" for row in profile.rows):
        raise UserError(
            f"device '{device}' has no measured rows of its own to evaluate on; a shipped device is evaluated on "
            f"public measurements, in a clone of the project: python -m experiments.profiles.evaluate device={device}"
        )
    return own_rows(profile)


def own_rows(profile: DeviceProfile) -> list[Evaluation]:
    """Kernels timed alone, each predicted from the others of its kind, with the kind's own interval."""
    model = fit_latency_model(profile)
    sets = []
    for kind, known in profile.header.models.items():
        rows = [row for row in profile.rows if row.kernel.price_kind == kind and row.origin == "measured"]
        if len(rows) < FEWEST_ROWS or known.residual is None:
            continue
        kernels = [row.kernel for row in rows]
        measured = np.array([row.latency_ms for row in rows])
        formed = np.array([model.form_ms(kernel) for kernel in kernels])
        ratios = np.log(measured / formed)
        mean, _ = fit_residual(known.residual, kernels, ratios.tolist()).left_out(ratios)
        predicted = formed * np.exp(mean)
        ends = predicted * known.low_factor, predicted * known.high_factor
        names = [str(kernel) for kernel in kernels]
        sets.append(Evaluation(f"{kind}: leave-one-kernel-out", names, measured, predicted, *ends, KERNEL_COVERAGE))
    return sets


def render(sets: Sequence[Evaluation]) -> str:
    """The table in Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for s in sets:
        figures = (f"{s.mape:.2f}", f"{s.within(0.05):.1f}", f"{s.within(0.1):.1f}", f"{s.rmse_ms:.4g}")
        rank = "-" if np.isnan(s.spearman) else f"{s.spearman:.3f}"
        holds = {None: "", True: "", False: ": the claim does not hold"}[s.coverage_holds]
        reached = {None: "-", True: "yes", False: "no"}[s.reached]
        cells = (s.name, str(len(s.names)), *figures, rank, s.coverage_text() + holds, s.mark or "-", reached)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def points(sets: Sequence[Evaluation]) -> str:
    """Every prediction as CSV, with the columns of `POINTS`."""
    rows: list[tuple[str | float | None, ...]] = []
    for s in sets:
        none = [None] * len(s.names)
        low = none if s.low_ms is None else s.low_ms.tolist()
        high = none if s.high_ms is None else s.high_ms.tolist()
        for name, *times in zip(s.names, s.measured_ms.tolist(), s.predicted_ms.tolist(), low, high, strict=True):
            rows.append((s.name, name, *times))
    return render_table(make_table(rows, POINTS), POINTS)


def plot(device: str, sets: Sequence[Evaluation]) -> bytes:
    """Predicted against measured, a panel a set, as SVG. Needs matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = device
    from matplotlib import pyplot

    columns = min(3, len(sets))
    figure, axes = pyplot.subplots(
        -(-len(sets) // columns), columns, figsize=(4.2 * columns, 4 * -(-len(sets) // columns)), squeeze=False
    )
    for axis in axes.flat[len(sets) :]:
        axis.set_axis_off()
    for axis, s in zip(axes.flat, sets, strict=False):
        ends = [float(min(s.measured_ms.min(), s.predicted_ms.min())) * 0.9]
        ends.append(float(max(s.measured_ms.max(), s.predicted_ms.max())) * 1.1)
        axis.fill_between(ends, [0.9 * e for e in ends], [1.1 * e for e in ends], color="0.9", label="within 10 %")
        axis.plot(ends, ends, color="0.5", linewidth=0.8)
        axis.plot(s.measured_ms, s.predicted_ms, "o", markersize=3, alpha=0.6)
        axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured ms", ylabel="predicted ms")
        axis.set_title(f"{s.name}\nMAPE {s.mape:.2f} %, n = {len(s.names)}", fontsize=8)
    figure.suptitle(f"{device}: predictions of what the predictor did not see", fontsize=10)
    figure.tight_layout()
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return out.getvalue()


def write_evaluation(device: str, sets: Sequence[Evaluation], folder: Path) -> str:
    """Write evaluation.md, points.csv and, where matplotlib is installed, plot.svg; the text to print."""
    table = render(sets)
    ensure_folder(folder)
    write_whole(folder / "evaluation.md", f"# {device}\n\n{table}\n")
    write_whole(folder / "points.csv", points(sets))
    try:
        write_whole(folder / "plot.svg", plot(device, sets))
        drawn = "evaluation.md, points.csv and plot.svg"
    except ImportError:
        drawn = "evaluation.md and points.csv (no plot: pip install matplotlib)"
    return f"{table}\n{drawn} -> {folder}"


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    return run(_evaluate, OPTIONS, USAGE, arguments)


def _evaluate(options: Options) -> str:
    device = options.text("device")
    return write_evaluation(device, evaluate(device), Path(options.text("out", f"evaluation-{device}")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
