"""What a search is asked to do, as frozen values. No torch here: the command checks these first.

Every field is an option of `python -m nas.search` (nested ones with a dot); defaults stand in
`nas/conf/*.yaml` for the command and here for calls from Python.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from nas.penalties import FORMS
from nas.strategies import STRATEGIES
from search_space.errors import BadFile, UnknownName, UserError, one_line
from search_space.named import check_named

DATA_SETS = ("cifar10", "digits", "imagefolder", "packed", "webdataset")
SAMPLERS = ("nsga2", "tpe")
GATE_MODES = ("full_v2", "two")
GATE_STARTS = ("budget", "uniform")
ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = ("bf16", "fp32")


@dataclass(frozen=True)
class DataSettings:
    """Which images; `resolution` is the one trained at (pixels).

    Of data=webdataset: cache, the folder for remote shards and indices (None: the user's); cache_gb, what it may hold;
    shuffle_shards, images are mixed within so many shards.
    """

    name: str = "digits"
    root: str | None = None
    train: str | None = None
    test: str | None = None
    resolution: int = 64
    validation_share: float = 0.25
    limit: int | None = None
    cache: str | None = None
    cache_gb: float = 10.0
    shuffle_shards: int = 8

    def __post_init__(self) -> None:
        if self.name not in DATA_SETS:
            raise UnknownName("data", self.name, DATA_SETS)
        _require(16 <= self.resolution <= 1024, "data.resolution", self.resolution, "between 16 and 1024 pixels")
        share = self.validation_share
        _require(0.01 <= share <= 0.9, "data.validation_share", share, "between 0.01 and 0.9")
        _require(self.limit is None or self.limit >= 8, "data.limit", self.limit, "8 or more")
        _require(0 < self.cache_gb < math.inf, "data.cache_gb", self.cache_gb, "above 0")
        _require(self.shuffle_shards >= 1, "data.shuffle_shards", self.shuffle_shards, "1 or more")


@dataclass(frozen=True)
class WarmupSettings:
    """Weights only, on paths drawn from the gates as they start."""

    epochs: int = 4

    def __post_init__(self) -> None:
        _require(self.epochs >= 0, "warmup.epochs", self.epochs, "0 or more")


@dataclass(frozen=True)
class FinetuneSettings:
    """The chosen path's weights, trained on before export; fields are named as in `nas.training.loop.Recipe`.

    None: as the supernet was trained (`TrainSettings`).
    """

    epochs: int = 6
    lr: float = 2e-3
    weight_decay: float | None = None
    label_smoothing: float | None = None
    gradient_clip: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    ema: float | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        _require(self.epochs >= 0, "finetune.epochs", self.epochs, "0 or more")
        check_training("finetune", self)


@dataclass(frozen=True)
class TrainSettings:
    """Weight steps of the supernet (AdamW, cosine), fields but the last one named as in `nas.training.loop.Recipe`.

    mixup, cutmix: of train images. ema: decay of the weights' moving average, which takes their place when the
    training ends: for comparing paths, in the checkpoint, and to be fine-tuned. 0: off.
    precision: what layers compute in while they train; 'bf16' is torch's autocast, with weights in fp32.
    share_weights: a slot's candidates are slices of its largest one; false gives each its own
    weights, as ProxylessNAS did; None decides by the length of the training (`nas.strategies.weights.decided`).
    """

    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    gradient_clip: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    precision: str = "fp32"
    share_weights: bool | None = None

    def __post_init__(self) -> None:
        check_training("train", self)


@dataclass(frozen=True)
class GateSettings:
    """Architecture steps (Adam on alpha, betas (0, 0.999), no decay, as in the reference).

    start: 'uniform' is the paper's; 'budget' is the distribution nearest to it whose expected latency
    keeps the budget, so that warm-up trains the networks that can be chosen.
    """

    mode: str = "two"
    start: str = "budget"
    lr: float = 0.1
    every: int = 1

    def __post_init__(self) -> None:
        if self.mode not in GATE_MODES:
            raise UnknownName("gates.mode", self.mode, GATE_MODES)
        if self.start not in GATE_STARTS:
            raise UnknownName("gates.start", self.start, GATE_STARTS)


@dataclass(frozen=True)
class PenaltySettings:
    """Form of the latency term; `strength` is add_linear's, `alpha` and `beta` are mul_log's."""

    form: str = "multiplier"
    strength: float = 0.1
    alpha: float = 0.2
    beta: float = 0.3

    def __post_init__(self) -> None:
        check_named("penalty.form", self.form, FORMS)
        for name in ("strength", "alpha", "beta"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"penalty.{name}", value, "0 or more")


@dataclass(frozen=True)
class OptunaSettings:
    """Of strategy=optuna. storage: a journal's file or a database's URL, which keeps the trials and which several
    runs with equal settings may share; None keeps them with the run."""

    sampler: str = "tpe"
    storage: str | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UnknownName("optuna.sampler", self.sampler, SAMPLERS)


@dataclass(frozen=True)
class CheckpointSettings:
    """How often the run's whole state is written, for `resume=`: every so many minutes, or steps too."""

    minutes: float = 2.0
    steps: int | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.minutes < math.inf, "checkpoint.minutes", self.minutes, "0 or more")
        _require(self.steps is None or self.steps >= 1, "checkpoint.steps", self.steps, "1 or more")


@dataclass(frozen=True)
class LimitSettings:
    """Hard limits beside the budget, None where there is none: number of parameters, MACs, and bytes of peak
    activation (fp32, batch 1), all at deployment resolution."""

    params: float | None = None
    macs: float | None = None
    peak_activation: float | None = None

    def __post_init__(self) -> None:
        for name in ("params", "macs", "peak_activation"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, f"limits.{name}", value, "above 0")


@dataclass(frozen=True)
class SearchSettings:
    """A whole search.

    confidence: the share of networks that must stay below the interval's upper end, which then keeps the
    budget instead of the prediction itself. calibration: the profile's factor on predictions.
    init: the supernet whose weights and gates are the start (see `nas.supernet.origin`); None for new ones.
    trials, trial_images: networks that a discrete strategy looks at, and on how many validation images (None: all).
    """

    device: str = "vpu"
    budget_ms: float = 30.0
    limits: LimitSettings = field(default_factory=LimitSettings)
    confidence: float | None = None
    calibration: str = "measured"
    space: str = "quadranet"
    space_width: float | None = None
    strategy: str = "proxyless"
    init: str | None = None
    data: DataSettings = field(default_factory=DataSettings)
    seed: int = 0
    warmup: WarmupSettings = field(default_factory=WarmupSettings)
    epochs: int = 5
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    gates: GateSettings = field(default_factory=GateSettings)
    penalty: PenaltySettings = field(default_factory=PenaltySettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    trials: int = 100
    trial_images: int | None = None
    optuna: OptunaSettings = field(default_factory=OptunaSettings)
    use_at_least: float = 0.97
    rerank: int = 6
    deployment_resolution: int = 224
    threads: int | None = None
    accelerator: str = "auto"
    out: str | None = None

    def __post_init__(self) -> None:
        budget = self.budget_ms
        if isinstance(budget, bool) or not isinstance(budget, int | float) or not math.isfinite(budget) or budget <= 0:
            raise UserError(f"budget_ms={budget} is not a number of milliseconds above 0")
        confidence = self.confidence
        _require(confidence is None or 0.5 < confidence < 1, "confidence", confidence, "between 0.5 and 1")
        check_named("strategy", self.strategy, STRATEGIES)
        least = 1 if self.init is None else 0
        _require(self.epochs >= least, "epochs", self.epochs, f"{least} or more")
        _require(0 < self.gates.lr < math.inf, "gates.lr", self.gates.lr, "above 0")
        _require(self.gates.every >= 1, "gates.every", self.gates.every, "1 or more")
        _require(0 <= self.use_at_least < 1, "use_at_least", self.use_at_least, "at least 0 and below 1")
        _require(self.trials >= 1, "trials", self.trials, "1 or more")
        images = self.trial_images
        _require(images is None or images >= 1, "trial_images", images, "1 or more")
        _require(self.rerank >= 1, "rerank", self.rerank, "1 or more")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "between 0 and 4294967295")
        _require(
            32 <= self.deployment_resolution <= 4096,
            "deployment_resolution",
            self.deployment_resolution,
            "between 32 and 4096 pixels",
        )
        if self.accelerator not in ACCELERATORS:
            raise UnknownName("accelerator", self.accelerator, ACCELERATORS)
        _require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more")


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise UserError(f"{name}={value} is not {wanted}")


def check_training(group: str, settings: object) -> None:
    """Refuse what no training can do with; fields that are None or not there pass. Raises `UserError`."""
    for name, holds, wanted in (
        ("batch_size", lambda value: value >= 2, "2 or more"),
        ("lr", lambda value: 0 < value < math.inf, "above 0"),
        ("weight_decay", lambda value: 0 <= value < math.inf, "0 or more"),
        ("label_smoothing", lambda value: 0 <= value < 1, "at least 0 and below 1"),
        ("gradient_clip", lambda value: 0 <= value < math.inf, "0 or more (0: off)"),
        ("mixup", lambda value: 0 <= value < math.inf, "0 or more (0: off)"),
        ("cutmix", lambda value: 0 <= value < math.inf, "0 or more (0: off)"),
        ("ema", lambda value: 0 <= value < 1, "at least 0 (off) and below 1"),
        ("precision", lambda value: value in PRECISIONS, " or ".join(PRECISIONS)),
    ):
        value = getattr(settings, name, None)
        _require(value is None or holds(value), f"{group}.{name}", value, wanted)


T = TypeVar("T")


def settings_from_dict(kind: type[T], values: dict[str, Any], prefix: str = "") -> T:
    """A settings dataclass from nested dicts. Raises `UserError` for a value of the wrong type."""
    import typing

    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(values) - set(hints)):
        raise UnknownName("option", f"{prefix}{unknown[0]}", [prefix + name for name in hints])
    arguments: dict[str, Any] = {}
    for f in fields(kind):  # type: ignore[arg-type]
        if f.name not in values:
            continue
        value, hint = values[f.name], hints[f.name]
        if is_dataclass(hint):
            if not isinstance(value, dict):
                raise UserError(
                    f"{prefix}{f.name}={value} is a group; set {prefix}{f.name}.{fields(hint)[0].name} and the like"
                )
            arguments[f.name] = settings_from_dict(hint, value, f"{prefix}{f.name}.")  # type: ignore[arg-type]
            continue
        allowed = typing.get_args(hint) or (hint,)
        if float in allowed and type(value) is int:
            value = float(value)
        if str in allowed and type(value) in (int, float):
            value = str(value)
        if type(value) not in allowed:
            names = " or ".join(t.__name__.replace("NoneType", "null") for t in allowed)
            raise UserError(f"{prefix}{f.name}={value!r} is not of type {names}")
        arguments[f.name] = value
    return kind(**arguments)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of a folder's sub-folders in order, hidden ones left out."""
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name)))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no image or class: of the system, or of macOS' archives."""
    return name.startswith(".") or name == "__MACOSX"


def with_data_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """Options completed by what `nas/conf/data/NAME.yaml` says for the data set named, as the command does; with
    `init` by what that supernet was trained for."""
    import yaml

    if options.get("init") is not None:
        from nas.supernet.origin import with_init_defaults

        return with_init_defaults(options)

    data = dict(options.get("data", {}))
    name = data.setdefault("name", "digits")
    if name not in DATA_SETS:
        raise UnknownName("data", str(name), DATA_SETS)
    text = resources.files("nas.conf").joinpath("data", f"{name}.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text)
    epochs = defaults.pop("epochs")
    return {
        "epochs": epochs["search"],
        **options,
        "data": {**defaults, **data},
        "warmup": {"epochs": epochs["warmup"], **options.get("warmup", {})},
        "finetune": {"epochs": epochs["finetune"], **options.get("finetune", {})},
    }


def count_classes(data: DataSettings) -> int:
    """How many classes the images have, found without reading them. Raises `UserError`."""
    if data.name in ("digits", "cifar10"):
        return 10
    if data.name == "imagefolder":
        if not data.root:
            raise UserError("data=imagefolder needs data.root=FOLDER with a folder of images for every class")
        folder = Path(data.root).expanduser()
        folder = folder / "train" if (folder / "train").is_dir() else folder
        if not folder.is_dir():
            raise BadFile(f"no folder '{folder}'")
        count = len(class_folders(folder))
        if count < 2:
            raise BadFile(f"'{folder}' has {count} class folders; it needs one folder of images for every class")
        return count
    if data.name == "webdataset":
        from nas.data.shards.index import find_shards

        return len(find_shards(data).class_names)
    if not data.train or not data.test:
        raise UserError("data=packed needs data.train=FILE.npz and data.test=FILE.npz")
    import numpy as np

    try:
        with Path(data.train).expanduser().open("rb") as file, np.load(file, allow_pickle=False) as pack:
            return len(pack["class_names"])
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
        raise BadFile(f"'{data.train}' is not a readable image pack: {one_line(error)}") from error
