"""The command `python -m nas.predict model=RUN IMAGE...`: the classes of pictures, a line for each.

It shows a run's model.onnx, or a file that `nas.deploy` made of it, each picture as its metadata say, which is how the
test accuracy was measured. numpy, Pillow and the file's runtime do it, without torch. Not for accuracy over a data set,
nor for speed: it takes one picture at a time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.command.options import as_command
from nas.data.reduced import Purpose
from nas.data.sources import GROUNDS, OF_DECODING, EncodedSource, upright
from nas.deploy.opened import Opened, open_network
from nas.run.result import FOR_TIMING, RESIZE, class_name
from search_space.errors import BadFile, UserError, one_line

MODEL = "model.onnx"  # of a run's folder
SHOWN = 3  # most probable classes on a line


@dataclass(frozen=True)
class Predictor:
    """A trained network with what its file says of its input. mean, std: (3,); resolution: pixels a side.

    crop, crop_share, ground: as in `nas.run.result.Preprocessing`; purpose: what pictures are read for.
    """

    network: Opened
    class_names: tuple[str, ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    resolution: int
    crop: str
    crop_share: float
    ground: str
    purpose: Purpose

    @classmethod
    def load(cls, model: Path) -> Predictor:
        """From a file of this project, or the folder of a run or of a deployment.

        Raises `BadFile`, and `UserError` where the file's runtime is not installed.
        """
        network = open_network(model)
        path, said = network.path, network.said
        if said.get("purpose") == FOR_TIMING:
            raise BadFile(f"'{path}' is {FOR_TIMING}; give {MODEL} beside it")
        try:
            if said["resize"] != RESIZE or said["colours"] != "RGB" or said["crop"] not in ("whole", "centre"):
                raise BadFile(
                    f"'{path}' wants pictures with resize={said['resize']}, colours={said['colours']}, "
                    f"crop={said['crop']}, which this version does not make"
                )
            resolution = int(said["resolution"])
            if (ground := said.get("ground", "white")) not in GROUNDS:  # files of earlier versions do not say it
                raise BadFile(f"'{path}' lays transparent parts on '{ground}'; known: {', '.join(GROUNDS)}")
            inside = {"mean": "0 0 0", "std": "1 1 1"} if network.deployed else {}
            return cls(
                network,
                tuple(said["classes"].split("\n")),
                np.array({**inside, **said}["mean"].split(), np.float64).reshape(3),
                np.array({**inside, **said}["std"].split(), np.float64).reshape(3),
                resolution,
                said["crop"],
                float(said["crop_share"]),
                ground,
                Purpose(resolution, said["training_crop"]),
            )
        except KeyError as error:
            raise BadFile(
                f"'{path}' does not say '{error.args[0]}' of its input: it is of an earlier version, or of another "
                "program; train the network again with nas.train"
            ) from error
        except BadFile:
            raise
        except ValueError as error:
            raise BadFile(f"'{path}' has metadata that are no numbers: {one_line(error)}") from error

    def read(self, path: Path) -> NDArray[np.uint8]:
        """(H, W, 3) of a picture's file, as evaluation reads it. Raises `BadFile`."""
        return EncodedSource([path], ground=self.ground).read_for(0, self.purpose)

    def shown(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | NDArray[np.uint8]:
        """What `DataSet.batches` makes of a picture (H, W, 3) in evaluation: (1, 3, R, R), normalised.

        For a deployed file, which normalises by itself, (1, R, R, 3), rounded.
        """
        height, width = image.shape[:2]
        if self.crop == "centre":
            height = width = max(1, round(self.crop_share * min(height, width)))
            top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
            image = image[top : top + height, left : left + width]
        antialiased = min(height, width) > self.resolution
        rows, columns = (_bilinear(n, self.resolution, antialiased) for n in (height, width))
        pixels = np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns, optimize=True)
        if self.network.deployed:
            return np.ascontiguousarray(np.rint(pixels).clip(0, 255)[None], np.uint8)
        normalised = (pixels / 255.0 - self.mean) / self.std
        return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None], np.float32)

    def logits(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(classes,) of a picture (H, W, 3); of a deployed file logarithms of probabilities, which differ by a sum."""
        found = self.network.ask(self.shown(image)).astype(np.float64)
        return np.asarray(np.log(np.maximum(found, np.finfo(np.float32).tiny)) if self.network.deployed else found)

    def probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(classes,) of a picture (H, W, 3); they add up to 1."""
        logits = self.logits(image)
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum(), np.float64)

    def by_name(self, image: str | Path | Image.Image | NDArray[np.uint8]) -> dict[str, float]:
        """The probability of every class by its name, the largest first, of a picture or its file.

        Raises `BadFile`, `UserError` for an array that is no picture.
        """
        if isinstance(image, str | Path):
            path = Path(image).expanduser()
            if not path.is_file():
                raise BadFile(f"no file '{path}'")
            pixels = self.read(path)
        elif isinstance(image, Image.Image):
            try:
                pixels = upright(image, GROUNDS[self.ground])[0]
            except OF_DECODING as error:
                raise BadFile(f"the picture cannot be read: {one_line(error)}") from error
        else:
            pixels = np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise UserError(f"a picture is (H, W, 3) of uint8, not {pixels.shape} of {pixels.dtype}")
        found = self.probabilities(pixels)
        names = [class_name(self.class_names, number) for number in range(len(found))]
        return {names[number]: float(found[number]) for number in np.argsort(-found, kind="stable")}


def _bilinear(n: int, resolution: int, antialiased: bool) -> NDArray[np.float64]:
    """(R, n): the share of each of n pixels in each of R, by a triangle as wide as a new pixel where antialiased."""
    reach = n / resolution if antialiased else 1.0
    centres = (np.arange(resolution)[:, None] + 0.5) * n / resolution - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(centres - np.arange(n)) / reach)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float64)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for every picture; exit 2 with one line on what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m nas.predict", description="The classes of pictures.")
    parser.add_argument(
        "model",
        metavar="model=RUN",
        help=f"the folder of a run or of a deployment, or a file such as {MODEL}, model.tflite or model.xml",
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="the file of a picture")
    given = list(sys.argv[1:] if arguments is None else arguments)
    given.sort(key=lambda argument: not argument.startswith("model="))  # a stable sort: wherever it stands
    with as_command():
        asked = parser.parse_args(given)
        if not asked.model.startswith("model="):
            raise UserError(f"which network? '{asked.model}' comes without model=RUN; add it")
        predictor = Predictor.load(Path(asked.model.removeprefix("model=")).expanduser())
        for name in asked.images:
            print(f"{name}: {_words(predictor.by_name(name))}")


def _words(probabilities: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in list(probabilities.items())[:SHOWN])


if __name__ == "__main__":
    main()
