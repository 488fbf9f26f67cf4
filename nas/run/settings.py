"""What the commands are asked to do, as frozen values. No torch here: the command checks these first.

Every field is an option of `python -m nas.search` (nested ones with a dot), or of the command that its class names:
its type, limits, explanation and default stand here and nowhere else (`nas.command.options` gives them to hydra, and
prints them). Only what a data set changes of them stands in `nas/conf/data/*.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from search_space.errors import BadFile, UnknownName, UserError, one_line
from search_space.reading import Above, AtLeast, AtMost, Below, Between, OneOf, check, read_options

DATA_SETS = ("cifar10", "digits", "imagefolder", "packed", "webdataset")
STRATEGIES = ("evolution", "optuna", "proxyless", "random")
SAMPLERS = ("nsga2", "tpe")
GATE_MODES = ("full_v2", "two")
GATE_STARTS = ("budget", "uniform")
PENALTIES = ("add_linear", "hard", "mul_log", "multiplier")
ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = ("bf16", "fp32")

Positive = Annotated[float, Above(0)]
NonNegative = Annotated[float, AtLeast(0)]
Share = Annotated[float, AtLeast(0), Below(1)]
Count = Annotated[int, AtLeast(1)]
Epochs = Annotated[int, AtLeast(0)]
Pixels = Annotated[int, Between(16, 1024, "pixels")]
Precision = Annotated[str, OneOf(PRECISIONS)]
Seed = Annotated[int, Between(0, 2**32 - 1)]
AS_IN_TRAIN = "null: as in train"
Threads = Annotated[Count | None, "CPU threads of training (null: torch's default)"]
Accelerator = Annotated[
    str, OneOf(ACCELERATORS), "where to train: auto, cpu or cuda; several processes are started by torchrun"
]


@dataclass(frozen=True)
class DataSettings:
    """Which images, and how they are divided; `resolution` is the one trained at (pixels)."""

    name: Annotated[str, OneOf(DATA_SETS), "the data set, chosen by data=NAME"] = "digits"
    root: Annotated[str | None, "the images' folder, of webdataset also a URL"] = None
    train: Annotated[
        str | None, "of packed: a .npz file; of webdataset: or URL/train-{000..999}.tar, several patterns joined by ::"
    ] = None
    test: Annotated[str | None, "the same (null, of webdataset: a fifth of the images is held out)"] = None
    resolution: Annotated[Pixels, "pixels a side that images are trained at; each data set has its own default"] = 64
    validation_share: Annotated[
        float, Between(0.01, 0.9), "of the training images, held out for validation; each data set has its own default"
    ] = 0.25
    limit: Annotated[int | None, AtLeast(8), "use only so many training images (null: all)"] = None
    cache: Annotated[str | None, "of webdataset: where remote shards are kept (null: ~/.cache/quadranas)"] = None
    cache_gb: Annotated[Positive, "and how much of them, in GB; those that were read longest ago are removed first"] = (
        10.0
    )
    shuffle_shards: Annotated[Count, "of webdataset: images are mixed within so many shards"] = 8

    def __post_init__(self) -> None:
        check(self, "data.")


@dataclass(frozen=True)
class WarmupSettings:
    """Weights only, on paths drawn from the gates as they start."""

    epochs: Annotated[Epochs, "of the weights only, before the gates move"] = 4

    def __post_init__(self) -> None:
        check(self, "warmup.")


@dataclass(frozen=True)
class FinetuneSettings:
    """The chosen path's weights, trained on before export; fields are named as in `nas.training.recipes.Recipe`.

    None: as the supernet was trained (`TrainSettings`).
    """

    epochs: Annotated[Epochs, "of the chosen network alone"] = 6
    lr: Annotated[Positive, "peak learning rate"] = 2e-3
    weight_decay: Annotated[NonNegative | None, AS_IN_TRAIN] = None
    label_smoothing: Annotated[Share | None, AS_IN_TRAIN] = None
    gradient_clip: Annotated[NonNegative | None, AS_IN_TRAIN] = None
    mixup: Annotated[NonNegative | None, AS_IN_TRAIN] = None
    cutmix: Annotated[NonNegative | None, AS_IN_TRAIN] = None
    ema: Annotated[Share | None, AS_IN_TRAIN] = None
    precision: Annotated[Precision | None, AS_IN_TRAIN] = None

    def __post_init__(self) -> None:
        check(self, "finetune.")


@dataclass(frozen=True)
class TrainSettings:
    """Weight steps of the supernet (AdamW, cosine), fields but the last one named as in `nas.training.recipes.Recipe`.

    share_weights: None decides by the length of the training (`nas.strategies.weights.decided`). precision: 'bf16' is
    torch's autocast, with weights in fp32.
    """

    batch_size: Annotated[int, AtLeast(2), "images a step"] = 32
    lr: Annotated[Positive, "peak learning rate (AdamW, falls as a half cosine)"] = 2e-3
    weight_decay: Annotated[NonNegative, "AdamW's, of matrices and kernels"] = 0.05
    label_smoothing: Annotated[Share, "share of the target spread over all classes"] = 0.1
    gradient_clip: Annotated[NonNegative, "largest norm of the gradient (0: off)"] = 1.0
    mixup: Annotated[NonNegative, "of train images: the Beta distribution's parameter, 0.2 is usual (0: off)"] = 0.0
    cutmix: Annotated[NonNegative, "the same, 1.0 is usual (0: off)"] = 0.0
    ema: Annotated[Share, "decay of the weights' moving average, used when the training ends (0: off)"] = 0.0
    precision: Annotated[
        Precision, "bf16: layers compute in bfloat16 while they train, where the machine gains by it"
    ] = "fp32"
    share_weights: Annotated[
        bool | None,
        "true: a slot's candidates are slices of its largest; false: weights of their own, as ProxylessNAS has "
        "(null: by the training's length)",
    ] = None

    def __post_init__(self) -> None:
        check(self, "train.")


@dataclass(frozen=True)
class GateSettings:
    """Architecture steps (Adam on alpha, betas (0, 0.999), no decay, as in the reference).

    start: 'uniform' is the paper's; 'budget' is the distribution nearest to it whose expected latency
    keeps the budget, so that warm-up trains the networks that can be chosen.
    """

    mode: Annotated[str, OneOf(GATE_MODES), "two (the paper's) or full_v2 (every candidate, slower)"] = "two"
    start: Annotated[
        str, OneOf(GATE_STARTS), "budget (gates start where the expected latency keeps it) or uniform (the paper's)"
    ] = "budget"
    lr: Annotated[Positive, "learning rate of alpha"] = 0.1
    every: Annotated[Count, "an architecture step per so many weight steps"] = 1

    def __post_init__(self) -> None:
        check(self, "gates.")


@dataclass(frozen=True)
class PenaltySettings:
    """Form of the latency term."""

    form: Annotated[
        str,
        OneOf(PENALTIES),
        "multiplier (finds its strength), hard (within the budget at every step), add_linear or mul_log (the papers')",
    ] = "multiplier"
    strength: Annotated[NonNegative, "of add_linear"] = 0.1
    alpha: Annotated[NonNegative, "of mul_log"] = 0.2
    beta: Annotated[NonNegative, "of mul_log"] = 0.3

    def __post_init__(self) -> None:
        check(self, "penalty.")


@dataclass(frozen=True)
class OptunaSettings:
    """Of strategy=optuna."""

    sampler: Annotated[str, OneOf(SAMPLERS), "what proposes the trials"] = "tpe"
    storage: Annotated[
        str | None,
        "a journal's file or a database's URL: keeps the trials; runs with equal options may share it "
        "(null: kept with the run)",
    ] = None

    def __post_init__(self) -> None:
        check(self, "optuna.")


@dataclass(frozen=True)
class CheckpointSettings:
    """How often the run's whole state is written, for `resume=`."""

    minutes: Annotated[NonNegative, "the whole state is written so often, for resume="] = 2.0
    steps: Annotated[Count | None, "and after every so many steps"] = None

    def __post_init__(self) -> None:
        check(self, "checkpoint.")


@dataclass(frozen=True)
class LimitSettings:
    """Hard limits beside the budget, None where there is none, all at deployment resolution."""

    params: Annotated[Positive | None, "number of parameters"] = None
    macs: Annotated[Positive | None, "multiply-accumulates at deployment resolution"] = None
    peak_activation: Annotated[Positive | None, "bytes, fp32, batch 1, at deployment resolution"] = None

    def __post_init__(self) -> None:
        check(self, "limits.")


@dataclass(frozen=True)
class SearchSettings:
    """A whole search.

    confidence: the share of networks that must stay below the interval's upper end, which then keeps the
    budget instead of the prediction itself. init: the supernet whose weights and gates are the start (see
    `nas.supernet.origin`).
    """

    device: Annotated[
        str, "a device profile: shipped, in ./device_profiles, or in $NAS_DEVICE_PROFILES; [cpu,vpu]: several"
    ] = "vpu"
    budget_ms: Annotated[
        Positive, "predicted latency limit at deployment resolution, batch 1; [20,30]: several in one run"
    ] = 30.0
    limits: Annotated[LimitSettings, "hard limits on the network, beside the budget (null: none)"] = field(
        default_factory=LimitSettings
    )
    confidence: Annotated[
        float | None,
        Above(0.5),
        Below(1),
        "0.9: the upper end of the prediction's interval keeps the budget at 90 % (null: the prediction)",
    ] = None
    calibration: Annotated[
        str,
        "a factor of the device's profile; table3, table3_nn_meter: at the level of the paper's Table III",
    ] = "measured"
    space: Annotated[str, "a shipped search space, or the path of a YAML"] = "quadranet"
    space_width: Annotated[float | None, "multiplies the space's widths (null: as the space says)"] = None
    strategy: Annotated[
        str,
        OneOf(STRATEGIES),
        "proxyless (gates, by gradient); or trials of single networks: evolution, optuna, random",
    ] = "proxyless"
    init: Annotated[
        str | None, "start from a supernet: pretrained (ships with this), a search's folder or its checkpoint"
    ] = None
    data: Annotated[DataSettings, "the images"] = field(default_factory=DataSettings)
    seed: Annotated[Seed, "the same seed gives the same architecture"] = 0
    warmup: Annotated[WarmupSettings, "before the search"] = field(default_factory=WarmupSettings)
    epochs: Annotated[Epochs, "of the search: weights and gates in turn"] = 5
    finetune: Annotated[FinetuneSettings, "after the search"] = field(default_factory=FinetuneSettings)
    train: Annotated[TrainSettings, "weight steps of the supernet"] = field(default_factory=TrainSettings)
    gates: Annotated[GateSettings, "architecture steps"] = field(default_factory=GateSettings)
    penalty: Annotated[PenaltySettings, "the latency term of the gates' loss"] = field(default_factory=PenaltySettings)
    checkpoint: Annotated[CheckpointSettings, "what a run that is stopped is resumed from"] = field(
        default_factory=CheckpointSettings
    )
    trials: Annotated[Count, "of evolution, optuna, random: networks measured with inherited weights"] = 100
    trial_images: Annotated[
        Count | None, "validation images that networks are compared on (null: all; with init= 1000)"
    ] = None
    optuna: Annotated[OptunaSettings, "of strategy=optuna"] = field(default_factory=OptunaSettings)
    use_at_least: Annotated[Share, "share of a binding budget that the network must use"] = 0.97
    rerank: Annotated[Count, "this many of the most probable feasible networks compete on validation images"] = 6
    deployment_resolution: Annotated[
        int, Between(32, 4096, "pixels"), "pixels; what latency, MACs and memory are for"
    ] = 224
    threads: Threads = None
    accelerator: Accelerator = "auto"
    out: Annotated[str | None, "run folder (null: runs/TIME-DEVICE-BUDGET-SPACE)"] = None

    def __post_init__(self) -> None:
        check(self)
        if self.init is None and self.epochs < 1:
            raise UserError(f"epochs={self.epochs} is not 1 or more")


@dataclass(frozen=True)
class TrainCommand:
    """Options of `python -m nas.train` beside data, recipe and checkpoint: which network, and how."""

    architecture: Annotated[str | None, "architecture.json of a search"] = None
    weights: Annotated[str | None, "start from this safetensors file (null: from scratch)"] = None
    resolution: Annotated[Pixels, "pixels to train at"] = 64
    seed: Annotated[Seed, "of the first weights and of the order of images"] = 0
    threads: Threads = None
    accelerator: Accelerator = "auto"
    out: Annotated[str | None, "folder of the results (null: runs/TIME-train-SPACE)"] = None

    def __post_init__(self) -> None:
        if not self.architecture:
            raise UserError("which network? python -m nas.train runs/RUN/architecture.json data=... recipe=...")
        check(self)


@dataclass(frozen=True)
class PackCommand:
    """Options of `python -m nas.pack` beside data."""

    out: Annotated[str | None, "a new folder"] = None
    shard_mb: Annotated[float, Above(0), AtMost(10_000), "size of a shard, in MB"] = 100.0

    def __post_init__(self) -> None:
        if not self.out:
            raise UserError("where to? python -m nas.pack data=imagefolder data.root=PATH out=FOLDER")
        check(self)


T = TypeVar("T")


def settings_from_dict(kind: type[T], values: dict[str, Any], prefix: str = "") -> T:
    """A settings dataclass from nested dicts, its options' names beginning with `prefix`.

    Raises `UserError` naming the option, the value and what is wanted, or the nearest option to an unknown one.
    """
    return read_options(kind, values, prefix)


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
