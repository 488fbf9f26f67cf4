"""Which image is in which split, by name and content: kept in a run's folder and compared when a later run goes on.

Standard library only. Not for dividing images: that is `nas.data.splits`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from search_space.errors import BadFile, one_line
from search_space.files import write_whole
from search_space.sums import require_sum

FILE = "images.csv"  # in a run's folder
NAMED = 3  # images in one message
LATER = {"train": ("validation", "test"), "validation": ("test",)}  # splits in which an image must not come up again


@dataclass(frozen=True)
class Identities:
    """Of the images of a source, by position. contents: a digest of the file's bytes, '' of one that is not used.

    keys: the same for images that stay together, see `nas.data.copies.kept_together`.
    """

    names: Sequence[str]
    contents: Sequence[str]
    keys: Sequence[str]


@dataclass(frozen=True)
class Recorded:
    """split: train, validation, test, or none; sha256: the first 32 hexadecimal digits of that of the file."""

    split: str
    class_name: str
    sha256: str
    name: str


@dataclass(frozen=True)
class Record:
    """Every image that was found, whether it is used or not."""

    images: tuple[Recorded, ...]

    def save(self, folder: Path) -> None:
        """Write it into a run's folder. Raises `CannotWrite`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(Recorded))
        writer.writerows(astuple(image) for image in self.images)
        write_whole(folder / FILE, text.getvalue().encode())

    @staticmethod
    def load(folder: Path) -> Record | None:
        """That of a run's folder, None where there is none. Raises `BadFile`."""
        path = folder / FILE
        try:
            require_sum(path)
            with path.open(newline="", encoding="utf-8") as file:
                head, *rows = csv.reader(file)
            if head != [field.name for field in fields(Recorded)]:
                raise ValueError(f"its columns are {', '.join(head)}")
            return Record(tuple(Recorded(*row) for row in rows))
        except FileNotFoundError:
            return None
        except BadFile:
            raise
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise BadFile(f"'{path}' is not the list of a run's images: {one_line(error)}") from error

    def changes(self, now: Record) -> str:
        """In words, what is other in a later record, '' where nothing is."""
        before, after = ({image.name: image for image in record.images} for record in (self, now))
        gone, new = ([one for name, one in a.items() if name not in b] for a, b in ((before, after), (after, before)))
        old_names = {image.sha256: image.name for image in reversed(gone)}
        new_contents = {image.sha256 for image in new}
        both = [(before[name], image) for name, image in after.items() if name in before]
        said = {
            "new": [f"'{image.name}'" for image in new if image.sha256 not in old_names],
            "gone": [f"'{image.name}'" for image in gone if image.sha256 not in new_contents],
            "under another name": [
                f"'{old_names[image.sha256]}' as '{image.name}'" for image in new if image.sha256 in old_names
            ],
            "with other content": [f"'{new.name}'" for old, new in both if old.sha256 != new.sha256],
            "of another class": [f"'{new.name}'" for old, new in both if old.class_name != new.class_name],
        }
        return ", ".join(f"{len(names)} {what} ({_first(names)})" for what, names in said.items() if names)

    def met_again(self, now: Record) -> str:
        """In words, which images the later record measures on that this one trained on, '' where there are none.

        Gates and choices see validation images, so these must not become test images either.
        """
        before = {image.sha256: image.split for image in self.images if image.split != "none"}
        met: dict[tuple[str, str], list[str]] = {}
        for image in now.images:
            was = before.get(image.sha256, "")
            if image.split in LATER.get(was, ()):
                met.setdefault((was, image.split), []).append(f"'{image.name}'")
        return ", ".join(
            f"{len(names)} of its {was} images would be {new} images ({_first(names)})"
            for (was, new), names in met.items()
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
