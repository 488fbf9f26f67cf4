"""How one network is trained: the recipe as a value, the shipped ones by name, and that of a search's fine-tuning.

Not the training itself (`nas.training.loop`); no torch here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import resources
from typing import Annotated, Any

from nas.run.settings import (
    BALANCE,
    Balance,
    BatchSize,
    Count,
    NonNegative,
    Precision,
    Rate,
    SearchSettings,
    Share,
    settings_from_dict,
)
from search_space.errors import UnknownName
from search_space.reading import Between, check, read_yaml

FOLDER = resources.files("nas.conf").joinpath("recipe")


@dataclass(frozen=True)
class Recipe:
    """How to train a network. The defaults are the small recipe; the ImageNet one is in nas/conf/recipe."""

    epochs: Annotated[Count, "passes over the training images"] = 30
    warmup_epochs: Annotated[NonNegative, "of the linear rise to the peak learning rate"] = 1.0
    batch_size: BatchSize = 64
    accumulate: Annotated[Count, "steps whose gradients are averaged before the weights move"] = 1
    lr: Annotated[Rate, "peak learning rate (AdamW, falls as a half cosine)"] = 2e-3
    final_lr: Annotated[NonNegative, "learning rate at the end"] = 1e-6
    weight_decay: Annotated[NonNegative, "AdamW's, of matrices and kernels"] = 0.05
    label_smoothing: Annotated[Share, "share of the target spread over all classes"] = 0.1
    balance: Annotated[Balance, BALANCE] = 0.0
    gradient_clip: Annotated[NonNegative, "largest norm of the gradient (0: off)"] = 1.0
    mixup: Annotated[NonNegative, "the Beta distribution's parameter (0: off)"] = 0.0
    cutmix: Annotated[NonNegative, "the Beta distribution's parameter (0: off)"] = 0.0
    randaugment: Annotated[float, Between(0, 30), "magnitude of RandAugment (0: off)"] = 0.0
    colour_jitter: Annotated[
        float, Between(0, 1), "strength of changes of brightness, contrast and saturation (0: off)"
    ] = 0.0
    random_erasing: Annotated[float, Between(0, 1), "probability that a part of an image is erased"] = 0.0
    ema: Annotated[Share, "decay of the weights' moving average, used when the training ends (0: off)"] = 0.0
    precision: Annotated[Precision, "bf16: layers compute in bfloat16 while they train"] = "fp32"
    drop_path: Annotated[Share, "stochastic depth: probability that the last block is left out"] = 0.0
    teacher_share: Annotated[Share, "share of the loss that a teacher's soft labels have, where there is one"] = 0.5
    keep_statistics: Annotated[bool, "BatchNorms keep the statistics that they start with"] = False
    layer_scale: Annotated[float, Between(-1000, 1000), "what residual branches are multiplied by at the start"] = 1.0

    def __post_init__(self) -> None:
        check(self, "recipe.")


def available_recipes() -> tuple[str, ...]:
    """Names of the recipes in `nas/conf/recipe`, sorted."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in FOLDER.iterdir() if f.name.endswith(".yaml")))


def load_recipe(name: str, **changes: Any) -> Recipe:
    """A recipe of `nas/conf/recipe`, some of its fields changed. Raises `UnknownName`, or `UserError` for values."""
    if name not in available_recipes():
        raise UnknownName("recipe", name, available_recipes())
    values = read_yaml(FOLDER.joinpath(f"{name}.yaml"))
    del values["defaults"]  # hydra's: the fields that are not named stay as declared
    return settings_from_dict(Recipe, {**values, **changes}, "recipe.")


def finetune_recipe(settings: SearchSettings, keep_statistics: bool = False) -> Recipe:
    """The supernet's training, with what `finetune` says instead. Raises `UserError` for `finetune.epochs=0`.

    keep_statistics: of BatchNorms that were inherited from a trained network.
    """
    of_supernet = asdict(settings.train)
    del of_supernet["share_weights"]
    own = {name: value for name, value in asdict(settings.finetune).items() if value is not None}
    return Recipe(**{"warmup_epochs": 0.5, "keep_statistics": keep_statistics, **of_supernet, **own})
