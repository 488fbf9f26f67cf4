"""The pieces of a drawing: SVG elements, escaped, and the scale of an axis. Not for what is drawn.

Lengths are in units of a drawing, which the page scales up; it scales down only what does not stand in a box that
scrolls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

PAGE_WIDTH = 1100  # of a drawing as wide as the page


def element(name: str, *content: str, **attributes: object) -> Markup:
    """An element with its content; what is not `Markup` is escaped.

    Attributes: floats get two decimals, None leaves one out, `_` stands for `-` and ends a name that Python keeps.
    """
    given = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), f"{value:.2f}" if isinstance(value, float) else value
        )
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, Markup("").join(content))


def svg(width: float, height: float, label: str, about: str, parts: Iterable[str], **attributes: object) -> Markup:
    """A picture of width x height; `label` and `about` are read aloud, as one image unless `role` says otherwise."""
    size = {"viewBox": f"0 0 {width:g} {height:g}", "style": f"--width:{width:g}px"}  # which a box that scrolls keeps
    given = {**size, "aria_label": label, "role": "img", **attributes}
    return element("svg", element("desc", about), *parts, **given)


def rect(
    x: float, y: float, width: float, height: float, css: str, tip: str = "", radius: float = 0, **more: object
) -> Markup:
    """A box from its upper left corner; `tip` shows under the mouse, `radius` rounds the corners."""
    size = {"x": float(x), "y": float(y), "width": float(max(width, 0)), "height": float(height), "rx": f"{radius:g}"}
    return element("rect", **size, class_=css, data_tip=tip or None, **more)


def text(x: float, y: float, words: str, css: str = "", anchor: str = "middle") -> Markup:
    """Words on the baseline y; x is their start, middle or end, as `anchor` says."""
    return element("text", words, x=float(x), y=float(y), class_=css, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """A straight line between two points."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=css)


def dot(x: float, y: float, css: str, *content: str, radius: float = 5, **more: object) -> Markup:
    """A point of a chart."""
    return element("circle", *content, cx=float(x), cy=float(y), r=f"{radius:g}", class_=f"dot {css}", **more)


def curve(points: Iterable[tuple[float, float]], css: str) -> Markup:
    """A line through points."""
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=f"curve {css}")


def whisker(low: float, high: float, y: float) -> Markup:
    """An interval from low to high at height y, with ends of 10 units."""
    ends = [line(end, y - 5, end, y + 5, "whisker") for end in (low, high)]
    return Markup("").join([line(low, y, high, y, "whisker"), *ends])


@dataclass(frozen=True, slots=True)
class Scale:
    """Values low..high on units start..end of a drawing; `log` in decades."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value stands in the drawing."""
        low, high, at = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (at - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self, number: int = 5) -> list[float]:
        """Round values inside the scale, about so many."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [f * 10.0**d for d in decades for f in (1, 2, 5) if self.low <= f * 10.0**d <= self.high]
            if len(found) > 2:
                return found
        rough = ((self.high - self.low) or 1) / number
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) for n in range(first, last + 1)]
