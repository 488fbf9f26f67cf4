"""A finished run as a value: what it found for every target, and the tables it left. Not for carrying out a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nas.run.front_table import FRONT, load_front, load_front_table
from nas.run.result import SearchResult, load_result
from search_space import UserError
from search_space.errors import BadFile

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from PIL.Image import Image

    from nas.predict import Predictor
    from search_space.build import Network


RESULT, WEIGHTS = "architecture.json", "weights.safetensors"


@dataclass(frozen=True)
class FinishedTarget:
    """The network for one budget on one device, and the folder that holds its files."""

    result: SearchResult
    folder: Path

    @property
    def log(self) -> pd.DataFrame:
        """The course of the search or training, a row a logged step.

        `SEARCH_LOG` and `TRAIN_LOG` of `nas.run.log` document the columns.
        """
        from nas.run.log import SEARCH_LOG, TRAIN_LOG, load_search_log, load_train_log

        trained = (self.folder / TRAIN_LOG.name).is_file() and not (self.folder / SEARCH_LOG.name).exists()
        return load_train_log(self.folder) if trained else load_search_log(self.folder)

    def network(self) -> Network:
        """The trained torch module, for images of the training resolution (N, 3, R, R). Raises `BadFile`."""
        from nas.run.export import load_network

        return load_network(self.result, self.folder / WEIGHTS)

    def module(self) -> Network:
        """The same as `network()`, by torch's word for it."""
        return self.network()

    def predict(self, image: str | Path | Image | NDArray[np.uint8]) -> dict[str, float]:
        """The probability of every class, by its name, the largest first; as `python -m nas.predict` works them out.

        image: a picture's file, a Pillow image, or (H, W, 3) uint8. Raises `BadFile` for a file that is no picture.
        """
        return self._predictor.by_name(image)

    @cached_property
    def _predictor(self) -> Predictor:
        from nas.predict import Predictor

        return Predictor.load(self.folder)

    @property
    def confusion(self) -> pd.DataFrame:
        """Test images by class (a row each) and the answer of model.onnx (a column each). Raises `UserError`."""
        from nas.run.confusion import FILE, load_confusion

        found = load_confusion(self.folder)
        if found is None:
            raise UserError(f"'{self.folder}' has no {FILE}: nothing was measured, or by an earlier version")
        return found.table()


@dataclass(frozen=True)
class Finished:
    """A finished run over one or more targets, in the order asked for.

    folder: the run's; that of its only target, or with a sub-folder for each of several.
    """

    targets: tuple[FinishedTarget, ...]
    folder: Path

    @property
    def result(self) -> SearchResult:
        """The only target's. Raises `UserError` for a run over several: `targets` has them."""
        return self.only.result

    @property
    def log(self) -> pd.DataFrame:
        """The only target's. Raises `UserError` for a run over several: `targets` has them."""
        return self.only.log

    def network(self) -> Network:
        """The only target's. Raises `UserError` for a run over several: `targets` has them."""
        return self.only.network()

    def module(self) -> Network:
        """The only target's. Raises `UserError` for a run over several: `targets` has them."""
        return self.only.module()

    def predict(self, image: str | Path | Image | NDArray[np.uint8]) -> dict[str, float]:
        """The only target's (see `FinishedTarget.predict`). Raises `UserError` for a run over several."""
        return self.only.predict(image)

    @property
    def confusion(self) -> pd.DataFrame:
        """The only target's. Raises `UserError` for a run over several: `targets` has them."""
        return self.only.confusion

    @property
    def front(self) -> pd.DataFrame:
        """All targets beside each other, a row a target."""
        return load_front_table(self.folder)

    @property
    def only(self) -> FinishedTarget:
        """The only target. Raises `UserError` for a run over several: `targets` has them."""
        if len(self.targets) != 1:
            names = ", ".join(target.folder.name for target in self.targets)
            raise UserError(
                f"the run in '{self.folder}' has {len(self.targets)} targets ({names}); take one of .targets"
            )
        return self.targets[0]


def _of_target(folder: Path, name: str) -> Path:
    """A target's folder: the run's own, or right below it. Raises `BadFile` for what else a table may say."""
    if name != "." and (name == ".." or Path(name).name != name):
        raise BadFile(f"{folder.name}/{FRONT.name}: folder is {name[:80]!r}, not the name of one in the run's folder")
    return folder / name


def load_finished(folder: str | Path) -> Finished:
    """A finished run, read back from its folder; a folder with one network's files alone, as `nas.train` leaves, too.

    Raises `BadFile`.
    """
    folder = Path(folder)
    alone = not (folder / FRONT.name).is_file()
    targets = [folder] if alone else [_of_target(folder, row.folder) for row in load_front(folder)]
    return Finished(tuple(FinishedTarget(load_result(t / RESULT), t) for t in targets), folder)
