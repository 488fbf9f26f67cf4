"""Addresses of images, paths or URLs, and the secrets in them, which are kept in this process and written nowhere.

`hidden` turns `https://me:secret@host/a?token=x` into `https://***@host/a?token=***`, which is what settings, results,
messages and names of files hold; `revealed` gives the whole address to whoever opens it. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_URL = re.compile(
    r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)"
    r"(?P<user>[^/?#\s]*@|[^/?#\s:]*:(?!\d+/)[^\s@]*@)?"
    r"(?P<place>(?:(?!::)[^?\s'\"])*)"
    r"(?P<query>\?(?:(?!::)[^\s'\"])*)?"
)
_NAME = re.compile(r"[\w.{}/-]*\.(tar|npz)")  # a value that names a file is shown
_secrets: dict[str, tuple[str, str]] = {}  # by what is shown of an address: user and query as they were given


def is_remote(address: str) -> bool:
    """Whether it is a URL, and no path."""
    return "://" in address


def joined(folder: str, name: str) -> str:
    """The address of a file in a folder; a URL's query stays at the end."""
    place, mark, query = folder.partition("?") if is_remote(folder) else (folder, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{query}"


def file_name(address: str) -> str:
    """The last part of an address, without a URL's query."""
    place = address.partition("?")[0] if is_remote(address) else address
    return place.rsplit("/", 1)[-1]


def redacted(text: str) -> str:
    """Any text without the users, passwords and queries of the URLs in it."""
    return _URL.sub(lambda url: _shown(url)[0], text)


def hidden(text: str) -> str:
    """The same, of an address or several; `revealed` finds in this process what was left out."""

    def hide(url: re.Match[str]) -> str:
        shown, query = _shown(url)
        if shown != url[0]:
            for key in _keys(url["scheme"], url["place"], query):
                _secrets[key] = url["user"] or "", url["query"] or ""
        return shown

    return _URL.sub(hide, text)


def hidden_in(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with every text among them hidden."""
    return {name: hidden(value) if isinstance(value, str) else value for name, value in options.items()}


def revealed(address: str) -> str:
    """What `hidden` was given, also for another file of the same host.

    Raises `KeyError` for an address whose secrets were never given to this process.
    """
    url = _URL.fullmatch(address)
    if url is None or HIDDEN not in (url["user"] or "") + (url["query"] or ""):
        return address
    found = next(
        (_secrets[key] for key in _keys(url["scheme"], url["place"], url["query"] or "") if key in _secrets), None
    )
    if found is None:
        raise KeyError(address)
    user, query = found
    return f"{url['scheme']}{user}{url['place']}{_filled(url['query'] or '', query)}"


def _shown(url: re.Match[str]) -> tuple[str, str]:
    """What may be shown of a URL, and its query alone."""
    query = re.sub(r"(?<=[?&;])([^&;=]*)(=[^&;]*)?", _value, url["query"] or "")
    return f"{url['scheme']}{HIDDEN + '@' if url['user'] else ''}{url['place']}{query}", query


def _value(pair: re.Match[str]) -> str:
    name, value = pair[1], pair[2]
    if value is None:
        return HIDDEN if name else ""
    return f"{name}={value[1:] if _NAME.fullmatch(value[1:]) else HIDDEN}"


def _filled(shown: str, given: str) -> str:
    """The query that is shown, with the values that were given where it hides them."""
    parts, whole = re.split(r"([&;])", shown[1:]), re.split(r"([&;])", given[1:])
    filled = [b if HIDDEN in a else a for a, b in zip(parts, whole, strict=True)]
    return "?" + "".join(filled) if shown else ""


def _keys(scheme: str, place: str, query: str) -> tuple[str, str]:
    """Of one file, and of its host."""
    names = re.sub(r"=[^&;]*", "", query)
    return f"{scheme}{place}{query}", f"{scheme}{place.partition('/')[0]}?{names}"
