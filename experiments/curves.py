"""The experiments' drawings as SVG, the same bytes for the same input. Needs matplotlib; measures nothing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Protocol

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter


class Trained(Protocol):
    """A network with its mean accuracy and standard deviation over seeds (None for one), in percent."""

    @property
    def form(self) -> str:
        """The line that it belongs to, as the legend names it."""

    @property
    def params(self) -> int:
        """Parameters, as a plain count; the drawing divides by a million."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image, as a plain count; the drawing divides by a million."""

    @property
    def mean(self) -> float:
        """Test accuracy in percent, the mean over seeds."""

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds in points; None for one seed, drawn without a bar."""


def accuracy_against_cost(networks: Sequence[Trained], forms: Sequence[str], title: str) -> bytes:
    """One panel against parameters and one against MACs, a line a form."""
    figure = Figure(figsize=(8.4, 3.8))
    panels = figure.subplots(1, 2, sharey=True)
    for panel, cost, label in zip(panels, ("params", "macs"), ("parameters, M", "MACs, M"), strict=True):
        for form, marker in zip(forms, "os", strict=True):
            line = sorted((network for network in networks if network.form == form), key=lambda n: n.params)
            panel.errorbar(
                [getattr(network, cost) / 1e6 for network in line],
                [network.mean for network in line],
                [network.deviation or 0.0 for network in line],
                marker=marker,
                markersize=4,
                capsize=3,
                label=form,
            )
        panel.set(xscale="log", xlabel=label)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy, %")
    panels[0].legend()
    figure.suptitle(f"{title}; bars: standard deviation over seeds", fontsize=9)
    return _svg(figure, "fig5")


class Learned(Protocol):
    """A strategy's mean regret in points by looks, with the mean's standard error."""

    @property
    def strategy(self) -> str:
        """The line's name in the legend."""

    @property
    def mean(self) -> Sequence[float]:
        """Mean regret in points, one for each number of looks."""

    @property
    def error(self) -> Sequence[float]:
        """The mean's standard error in points, as long as `mean`."""


def regret_by_looks(panels: Mapping[str, Sequence[Learned]], looks: Sequence[int]) -> bytes:
    """A panel a figure, by its name; a line a strategy."""
    figure = Figure(figsize=(8.4, 3.8))
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for line in lines:
            axes.errorbar(looks, line.mean, line.error, marker="o", markersize=4, capsize=3, label=line.strategy)
        axes.set(xscale="log", xlabel="networks looked at", ylabel="regret, points", title=title)
        axes.set_yscale("symlog", linthresh=0.01)  # a regret can be 0
        axes.set_ylim(bottom=0)
        axes.set_xticks(looks, map(str, looks))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    return _svg(figure, "nasbench201")


def _svg(figure: Figure, salt: str) -> bytes:
    figure.tight_layout()
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
