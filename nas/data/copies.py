"""The same picture more than once: exact copies by the bytes of their files, near ones by how they look when small.

A measured accuracy must not come from pictures that were trained on. Not for which split a picture is in otherwise:
that is `nas.data.splits`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from nas.data.dataset import DataSet, Split
from nas.data.folders import listed
from nas.data.sources import EncodedSource
from search_space.errors import BadFile

DIGITS = 32  # of the digest in hexadecimal, 128 bits
ALIKE = 0.995  # correlation of the greys of two small pictures, from which they count as near copies: those of another
# size or JPEG quality have 0.997 or more, and no two of scikit-learn's 1,797 digits have as much
FLAT = 4.0  # levels; pictures whose greys deviate less are not compared


def contents_of(source: EncodedSource, positions: NDArray[np.int64]) -> list[str]:
    """A digest of the bytes of each image at these positions (n,), '' for all others. Raises `BadFile`.

    Every file is read in whole, as every epoch does.
    """

    def digest(position: int) -> str:
        try:
            return hashlib.sha256(source.encoded(position)).hexdigest()[:DIGITS]
        except OSError as error:
            raise BadFile(f"cannot read {source.name(position)}: {error.strerror}") from error

    contents = [""] * len(source)
    with ThreadPoolExecutor() as pool:
        for position, content in zip(positions.tolist(), pool.map(digest, positions.tolist()), strict=True):
            contents[position] = content
    return contents


def kept_together(contents: Sequence[str], groups: Sequence[str]) -> list[str]:
    """For each image a key that it shares with those that must be in the same split.

    Copies have one, and so have images of a group ('': of none) and all groups that have a copy in common.
    """
    if not groups:
        return list(contents)
    above: dict[str, str] = {}

    def top(key: str) -> str:
        while (upper := above.setdefault(key, key)) != key:
            key = upper
        return key

    own = [f"group {group}" if group else content for content, group in zip(contents, groups, strict=True)]
    for content, key in zip(contents, own, strict=True):
        if content and key != content:  # the lesser of two is the upper, whatever comes first
            one, other = sorted((top(content), top(key)))
            above[other] = one
    return [top(key) if content else "" for content, key in zip(contents, own, strict=True)]


def one_side_each(
    parts: Mapping[str, Split | None], keys: Sequence[str], contents: Sequence[str], source: EncodedSource
) -> tuple[dict[str, Split | None], list[str]]:
    """The splits without held-out images that belong to a split before them, and sentences on those left out.

    The training images stay whole, then the test images; so does a split of which none would be left, which is said.
    """
    kept, notes = dict(parts), []
    seen: dict[str, str] = {}
    of_content: dict[str, str] = {}
    for role in ("train", "test", "validation"):
        split = parts.get(role)
        if split is None:
            continue
        stays = np.array([keys[index] not in seen for index in split.indices], dtype=bool)
        if len(split) and not stays.any():
            stays[:] = True
            notes.append(
                f"every {role} image is a copy of one in another split, or of a group with it: the {role} accuracy "
                "says nothing about other images; leave the split out, and a part of the training images is held out"
            )
        out = split.indices[~stays].tolist()
        for where in ("train", "test"):
            copies = [i for i in out if of_content.get(contents[i]) == where]
            others = [i for i in out if of_content.get(contents[i]) is None and seen[keys[i]] == where]
            for what, those in (("copies of", copies), ("of the same groups as", others)):
                if those:
                    notes.append(
                        f"{len(those)} of {len(split)} {role} images are {what} {where} images and left out: "
                        f"{listed([source.name(i) for i in those])}"
                    )
        kept[role] = split.take(np.flatnonzero(stays))
        seen |= {keys[index]: role for index in split.indices[stays]}
        of_content |= {contents[index]: role for index in split.indices[stays]}
    return kept, notes


def copies_said(contents: Sequence[str], labels: NDArray[np.int64], source: EncodedSource) -> list[str]:
    """Sentences on exact copies among all images, and on those that have several classes. labels: (n,)."""
    first: dict[str, int] = {}
    copies: list[int] = []
    torn: dict[str, int] = {}
    for position, content in enumerate(contents):
        if content and (one := first.setdefault(content, position)) != position:
            copies.append(position)
            if labels[one] != labels[position]:
                torn.setdefault(content, position)
    notes = []
    if copies:
        notes.append(
            f"{len(copies)} images are byte copies of others, which are never in two splits: "
            f"{listed([source.name(position) for position in copies])}"
        )
    if torn:
        pairs = [f"{source.name(first[content])} = {source.name(position)}" for content, position in torn.items()]
        notes.append(f"pictures with copies of another class: {len(torn)} ({listed(pairs)})")
    return notes


def near_copies_said(data: DataSet, sketches: Mapping[int, bytes]) -> list[str]:
    """A sentence on held-out images that look like training images. sketches: see `nas.data.soundness.Findings`."""
    train = _normalised(data.train, sketches)
    notes = []
    for role, split in (("validation", data.validation), ("test", data.test)):
        held, alike = _normalised(split, sketches), 0
        for start in range(0, len(held) if len(train) else 0, 512):
            alike += int((held[start : start + 512] @ train.T >= ALIKE).any(axis=1).sum())
        if alike:
            notes.append(
                f"{alike} of {len(split)} {role} images look like a training image, such as another size or a shot "
                "of the same burst; if so, keep them together as groups (data.groups= of folders, data.group_column= "
                "of tables)"
            )
    return notes


def _normalised(split: Split, sketches: Mapping[int, bytes]) -> NDArray[np.float32]:
    """(n, greys) of mean 0 and length 1, of the images that have a sketch and are not flat."""
    known = [sketches[index] for index in split.indices.tolist() if index in sketches]
    if not known:
        return np.empty((0, 0), np.float32)
    greys = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1).astype(np.float32)
    greys -= greys.mean(axis=1, keepdims=True)
    greys = greys[greys.std(axis=1) >= FLAT]
    length: NDArray[np.float32] = greys / np.linalg.norm(greys, axis=1, keepdims=True)
    return length
