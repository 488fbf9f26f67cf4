"""How a folder of images is laid out: which sub-folders are splits, which are classes, and which files are images.

Splits are ROOT/train with ROOT/val and ROOT/test beside it, by any of the names in `ROLES` and in any case. Standard
library only, so that classes are known within a moment. Not for reading an image, nor for dividing images.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nas.data.decoders import image_endings, packages_for
from search_space.errors import BadFile

ROLES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
OF_THE_SYSTEM = {  # kept by macOS' archives, by Synology and QNAP, by Windows and by Linux' file systems
    "__macosx",
    "@eadir",
    "@recycle",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "desktop.ini",
}
NAMED = 6  # endings, classes or folders that are listed
NOTHING_PASSED = "nothing was passed over"
NEEDED = "it needs one folder of images for every class"


def printable(name: str) -> str:
    """A name in Unicode's composed form (NFC) that any file and terminal can take.

    Bytes that are no UTF-8, and control characters, are written as escapes.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") else c.encode("unicode_escape").decode()
        for c in unicodedata.normalize("NFC", text)
    )


def listed(names: Sequence[str]) -> str:
    """The first of the names, quoted."""
    return ", ".join([f"'{name}'" for name in names[:NAMED]] + ["..."] * (len(names) > NAMED))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no image or class: hidden, or of the system."""
    return name.startswith(".") or name.lower() in OF_THE_SYSTEM


def sub_folders(folder: Path) -> list[Path]:
    """A folder's folders in order, linked ones too, hidden ones left out. Raises `BadFile`."""
    return [Path(entry.path) for entry in _entries(folder) if not is_hidden(entry.name) and _is_folder(entry)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise BadFile(f"cannot read the folder '{folder}': {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


# ------------------------------------------------------------------ which folders are splits and classes


@dataclass(frozen=True)
class Part:
    """A split. classes: the folders of every class by its printable name, in order."""

    folder: Path
    classes: Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True)
class Layout:
    """What a root holds.

    held_out: by role, 'validation' and 'test', those splits that have class folders. unused: folders beside the splits,
    and splits without class folders. around: folders that hold no image of a class themselves. notes: sentences.
    """

    train: Part
    held_out: Mapping[str, Part] = field(default_factory=dict)
    unused: tuple[Path, ...] = ()
    around: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the training images."""
        return tuple(self.train.classes)


def layout_of(root: Path) -> Layout:
    """The splits and classes of a folder. Raises `BadFile` where there are none, or where they can be read two ways."""
    if not root.is_dir():
        raise BadFile(f"no folder '{root}'")
    around: list[Path] = [root]
    notes: list[str] = []
    folder = _inner(root, around, notes, ROLES)
    roles, others = _roles(folder)
    if not _are_splits(folder, roles, others):
        if "train" in roles:
            notes.append(f"'{printable(roles['train'].name)}' is taken for a class: it holds no class folders")
        train = _part(folder, around, notes)
        return Layout(train, around=tuple(dict.fromkeys(around)), notes=tuple(notes))
    train = _part(roles.pop("train"), around, notes)
    held_out, unused = {}, list(others)
    for role, path in roles.items():
        part = _part(path, around, notes, train.classes)
        if part.classes:
            held_out[role] = part
        else:
            unused.append(path)
            notes.append(f"'{printable(path.name)}' has no class folders and is not used")
    return Layout(train, held_out, tuple(unused), tuple(dict.fromkeys(around)), tuple(notes))


def _inner(folder: Path, around: list[Path], notes: list[str], kept: Collection[str]) -> Path:
    """Down through folders that hold nothing but one folder with folders in it, unless that has one of these names."""
    entered = {folder.resolve()}
    outer = folder
    while len(inside := sub_folders(folder)) == 1:
        (only,) = inside
        name = printable(only.name)
        if name in kept or name.casefold() in kept or only.resolve() in entered or not sub_folders(only):
            break
        entered.add(only.resolve())
        around.append(only)
        folder = only
    if folder != outer:
        inner = printable(str(folder.relative_to(outer)))
        notes.append(f"'{printable(outer.name)}' holds one folder alone: the class folders are those in '{inner}'")
    return folder


def _roles(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """By role the folders that are named like splits, and all others. Raises `BadFile` for two of one role."""
    roles: dict[str, Path] = {}
    others = []
    for path in sub_folders(folder):
        role = ROLES.get(path.name.casefold())
        if role is None:
            others.append(path)
        elif role in roles:
            raise BadFile(
                f"'{folder}' holds both '{roles[role].name}' and '{path.name}', two names of the {role} split; "
                "which one is it? Put them together, or move one elsewhere"
            )
        else:
            roles[role] = path
    return roles, others


def _are_splits(folder: Path, roles: Mapping[str, Path], others: Sequence[Path]) -> bool:
    """Whether the folders named like splits are ones, rather than classes. Raises `BadFile` where it is not clear."""
    if not roles:
        return False
    found = listed([path.name for path in roles.values()])
    beside = listed([path.name for path in others])
    if "train" not in roles:
        if others:
            raise BadFile(
                f"'{folder}' holds {found} beside {beside}, and no 'train': move the training classes into a folder "
                f"'train', or give {found} another name if it is a class"
            )
        raise BadFile(f"'{folder}' holds {found} alone, and no training images; they belong into a folder 'train'")
    train = roles["train"]
    if sub_folders(train):
        if len(roles) == 1 and (pictured := [path.name for path in others if _holds_image(path)]):
            raise BadFile(
                f"'{folder}' holds '{train.name}' with class folders, and images in {listed(pictured)} beside it: is "
                f"'{train.name}' a class or the training images? Give data.root={train} for the training images, or "
                f"give '{train.name}' another name if it is a class"
            )
        return True
    if len(roles) == 1 and others:  # trains among other vehicles
        return False
    raise BadFile(f"'{train}' has 0 class folders; {NEEDED}")


def _holds_image(folder: Path) -> bool:
    endings = image_endings()  # loads Pillow, for a rare question alone
    return any(Path(name).suffix.lower() in endings for _, _, names in os.walk(folder) for name in names)


def _part(folder: Path, around: list[Path], notes: list[str], trained: Collection[str] = ()) -> Part:
    """A split's classes; `trained`: those of the training images. Raises `BadFile`."""
    around.append(folder)
    inner = _inner(folder, around, notes, trained)
    classes: dict[str, tuple[Path, ...]] = {}
    for path in sub_folders(inner):
        name = printable(path.name)
        classes[name] = (*classes.get(name, ()), path)
    notes += [
        f"class '{name}' has {len(paths)} folders in '{printable(inner.name)}', whose names differ in their Unicode "
        "form alone; their images are taken together"
        for name, paths in classes.items()
        if len(paths) > 1
    ]
    if not trained and len(classes) < 2:
        raise BadFile(f"'{inner}' has {len(classes)} class folders; {NEEDED}")
    if extra := sorted(set(classes) - set(trained)) if trained else []:
        near = [name for name in trained if name.casefold() == extra[0].casefold()]
        hint = f"; they have '{near[0]}'" if near else ""
        raise BadFile(f"'{inner}' has class '{extra[0]}', which the training images lack{hint}")
    return Part(inner, dict(sorted(classes.items())))


# ------------------------------------------------------------------ which files are images


@dataclass(frozen=True)
class PassedOver:
    """How many files and folders were passed over: by ending those that are no images, by reason all others."""

    endings: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def files(self) -> int:
        """How many are no images by their ending."""
        return self.endings.total()

    def describe(self, images: Collection[str]) -> str:
        """In words. images: the endings of images."""
        needs = packages_for(frozenset(images))
        lacking = sorted(needs.keys() & self.endings.keys())
        parts = [f"{self.endings[ending]} {ending} files, which need {needs[ending]}" for ending in lacking]
        others = self.endings.keys() - needs.keys()
        often = sorted(others, key=lambda ending: (-self.endings[ending], ending))
        said = [f"{self.endings[ending]} {ending}" for ending in often[:NAMED]] + ["..."] * (len(often) > NAMED)
        parts += [f"{', '.join(said)} (images are {', '.join(sorted(images))})"] if said else []
        parts += [f"{count} {reason}" for reason, count in sorted(self.reasons.items())]
        return f"passed over: {', '.join(parts)}" if parts else NOTHING_PASSED


def images_in(folder: Path, endings: Collection[str], passed: PassedOver, deep: bool = True) -> Iterator[Path]:
    """The images in a folder and (deep) in all folders below it, linked ones too, each folder once.

    What is passed over is counted. Raises `BadFile` for a folder that cannot be read.
    """
    own = folder.resolve()
    above = {_identity(path) for path in (own, *own.parents)}
    entered: set[tuple[int, int]] = set()
    waiting, linked = deque([folder]), deque[Path]()
    while waiting or linked:
        at = (waiting or linked).popleft()  # what is really here comes before what is linked
        if at != folder:
            if (identity := _identity(at)) in above or identity in entered:
                reason = "linked to a folder above" if identity in above else "linked to a folder met before"
                passed.reasons[reason] += 1
                continue
            entered.add(identity)
        for entry in _entries(at):
            if is_hidden(entry.name):
                passed.reasons["hidden or of the system"] += 1
            elif _is_folder(entry):
                if deep:
                    (linked if entry.is_symlink() else waiting).append(Path(entry.path))
            elif not _is_file(entry):
                passed.reasons["linked to nothing" if entry.is_symlink() else "neither file nor folder"] += 1
            elif (ending := Path(entry.name).suffix.lower()) in endings:
                yield Path(entry.path)
            else:
                passed.endings[printable(ending) or "without an ending"] += 1


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    """The same for every path to a folder."""
    about = folder.stat()
    return about.st_dev, about.st_ino
