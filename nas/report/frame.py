"""The templates of all pages, filled in. What a page says is in `nas.report.page` and `nas.report.front`."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from latency_models.support import derived_words
from nas.report.words import count, interval, mebibytes, ms, percent


@cache
def _templates() -> Environment:
    """Escapes all but `Markup`; a name that a template does not get is an error, never an empty place."""
    found = Environment(
        loader=PackageLoader("nas.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(ms=ms, percent=percent, count=count, mebibytes=mebibytes, interval=interval)
    found.filters.update(derived=derived_words)
    return found


def render(template: str, **values: object) -> str:
    """A page of templates/, which gets `values`; what is not `Markup` among them is escaped.

    "base.html" is the frame alone: it takes a title, a body and, for tooltips, `scripted=True`.
    """
    return _templates().get_template(template).render({"scripted": False, **values})
