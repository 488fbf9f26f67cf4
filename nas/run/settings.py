"""What the commands are asked to do, as frozen values. No torch here: the command checks these first.

Every field is an option of `python -m nas.search` (nested ones with a dot), or of the command that its class names:
its type, limits, explanation and default stand here and nowhere else (`nas.command.options` gives them to hydra, and
prints them). Only what a data set changes of them stands in `nas/conf/data/*.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from nas.data.addresses import hidden
from nas.data.registry import settings_class
from nas.data.settings import DataSettings, Pixels
from nas.deploy import PRECISIONS as PRECISIONS_DEPLOYED
from nas.deploy import TARGETS
from nas.loggers import CSV, LOGGERS
from nas.penalties import FORMS
from nas.strategies import STRATEGIES
from search_space.bounds import KERNEL
from search_space.errors import UserError
from search_space.named import Named
from search_space.reading import (
    NOT_EMPTY,
    PATH,
    Above,
    AtLeast,
    AtMost,
    Below,
    Between,
    OneOf,
    ReadAs,
    Spelled,
    check,
    path_that_can_be,
    read_options,
)

SAMPLERS = ("nsga2", "tpe")
GATE_MODES = ("full_v2", "two")
GATE_STARTS = ("budget", "uniform")
ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = ("bf16", "fp32")
LONGEST_PART = 200  # bytes; file systems take 255, and files that are being written have longer names for a moment
WIDTHS = (0.1, 10)  # that `SearchSpace.scaled` takes

# Upper ends are far above what anybody needs, and below what overflows in float32, in torch's or the system's integers.
Rate = Annotated[float, Above(0), AtMost(1000)]
NO_BUDGET_MS = 1e9  # what budget_ms=null is until a space's slowest network is known (`nas.run.plan`)
Milliseconds = Annotated[float, Above(0), AtMost(NO_BUDGET_MS)]
Size = Annotated[float, Above(0), AtMost(1e18)]
NonNegative = Annotated[float, AtLeast(0), AtMost(1000)]
Minutes = Annotated[float, AtLeast(0), AtMost(1e6)]
Wait = Annotated[float, Between(5, 86_400, "seconds")]
Share = Annotated[float, AtLeast(0), Below(1)]
Count = Annotated[int, Between(1, 1_000_000)]
Epochs = Annotated[int, Between(0, 1_000_000)]
Balance = Annotated[float, Between(0, 1)]
BALANCE = "of the loss: an image counts in proportion to n ** -balance for n of its class (0: off, 1: classes alike)"
BatchSize = Annotated[int, Between(2, 1_000_000), "images a step"]
MOST_THREADS = 1024
Precision = Annotated[str, OneOf(PRECISIONS)]
Seed = Annotated[int, Between(0, 2**32 - 1)]
AS_IN_TRAIN = "null: as in train"
Threads = Annotated[int | None, Between(1, MOST_THREADS), "CPU threads of training (null: torch's default)"]
RunFolder = Annotated[str | None, path_that_can_be(LONGEST_PART)]
FileName = Annotated[str | None, PATH]
Accelerator = Annotated[
    str, OneOf(ACCELERATORS), "where to train: auto, cpu or cuda; several processes are started by torchrun"
]
ONE_OR_MORE = Spelled(lambda value: [value] if isinstance(value, str) else value, list)  # one without brackets
LogNames = Annotated[
    tuple[Annotated[str, Named(LOGGERS)], ...],
    ONE_OR_MORE,
    "where rows go besides the CSV files, which are always written: [csv,tensorboard,mlflow], or your own logger",
]

KernelSize = Annotated[int, Between(1, KERNEL)]
Names = Annotated[
    tuple[str, ...],
    ONE_OR_MORE,
    "without these blocks, as in [k7e6], and without blocks that have these layers, as in [dwconv7,gelu]",
]


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
    lr: Annotated[Rate, "peak learning rate"] = 2e-3
    weight_decay: Annotated[NonNegative | None, AS_IN_TRAIN] = None
    label_smoothing: Annotated[Share | None, AS_IN_TRAIN] = None
    balance: Annotated[Balance | None, AS_IN_TRAIN] = None
    gradient_clip: Annotated[NonNegative | None, AS_IN_TRAIN] = None
    mixup: Annotated[NonNegative | None, AS_IN_TRAIN] = None
    cutmix: Annotated[NonNegative | None, AS_IN_TRAIN] = None
    ema: Annotated[Share | None, AS_IN_TRAIN] = None
    precision: Annotated[Precision | None, AS_IN_TRAIN] = None
    teacher_share: Annotated[Share | None, AS_IN_TRAIN] = None

    def __post_init__(self) -> None:
        check(self, "finetune.")


@dataclass(frozen=True)
class TrainSettings:
    """Weight steps of the supernet (AdamW, cosine), fields but the last one named as in `nas.training.recipes.Recipe`.

    share_weights: None decides by the length of the training (`nas.strategies.weights.decided`). precision: 'bf16' is
    torch's autocast, with weights in fp32.
    """

    batch_size: BatchSize = 32
    lr: Annotated[Rate, "peak learning rate (AdamW, falls as a half cosine)"] = 2e-3
    weight_decay: Annotated[NonNegative, "AdamW's, of matrices and kernels"] = 0.05
    label_smoothing: Annotated[Share, "share of the target spread over all classes"] = 0.1
    balance: Annotated[Balance, BALANCE] = 0.0
    gradient_clip: Annotated[NonNegative, "largest norm of the gradient (0: off)"] = 1.0
    mixup: Annotated[NonNegative, "of train images: the Beta distribution's parameter, 0.2 is usual (0: off)"] = 0.0
    cutmix: Annotated[NonNegative, "the same, 1.0 is usual (0: off)"] = 0.0
    ema: Annotated[Share, "decay of the weights' moving average, used when the training ends (0: off)"] = 0.0
    precision: Annotated[
        Precision, "bf16: layers compute in bfloat16 while they train, where the machine gains by it"
    ] = "fp32"
    teacher_share: Annotated[Share, "share of the loss that a teacher's soft labels have, where there is one"] = 0.5
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
    lr: Annotated[Rate, "learning rate of alpha"] = 0.1
    every: Annotated[Count, "an architecture step per so many weight steps"] = 1

    def __post_init__(self) -> None:
        check(self, "gates.")


@dataclass(frozen=True)
class PenaltySettings:
    """Form of the latency term."""

    form: Annotated[
        str,
        Named(FORMS),
        "multiplier (finds its strength), hard (within the budget at every step), add_linear or mul_log (the papers')",
    ] = "multiplier"
    strength: Annotated[NonNegative, "of add_linear"] = 0.1
    alpha: Annotated[NonNegative, "of mul_log"] = 0.2
    beta: Annotated[NonNegative, "of mul_log"] = 0.3

    def __post_init__(self) -> None:
        check(self, "penalty.")


@dataclass(frozen=True)
class OptunaSettings:
    """Of strategy=optuna. Secrets in the storage's address are kept aside, see `nas.data.addresses`."""

    sampler: Annotated[str, OneOf(SAMPLERS), "what proposes the trials"] = "tpe"
    storage: Annotated[
        FileName,
        "a journal's file or a database's URL: keeps the trials; runs with equal options may share it "
        "(null: kept with the run)",
    ] = None
    stale_s: Annotated[
        int, Between(2, 86_400, "seconds"), "in a database, the trial of a process silent for so long is another's"
    ] = 120

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage", self.storage and hidden(self.storage))
        check(self, "optuna.")


@dataclass(frozen=True)
class CheckpointSettings:
    """How often the run's whole state is written, for `resume=`."""

    minutes: Annotated[Minutes, "the whole state is written so often, for resume="] = 2.0
    steps: Annotated[Count | None, "and after every so many steps"] = None

    def __post_init__(self) -> None:
        check(self, "checkpoint.")


@dataclass(frozen=True)
class DistributedSettings:
    """How several processes work together, see `nas.run.company`."""

    timeout_s: Annotated[
        Wait, "of several processes (torchrun): a run ends when one is silent, or not ready for the others, for so long"
    ] = 120.0

    def __post_init__(self) -> None:
        check(self, "distributed.")


@dataclass(frozen=True)
class LimitSettings:
    """Hard limits beside the budget, None where there is none, all at deployment resolution."""

    params: Annotated[Size | None, "number of parameters"] = None
    macs: Annotated[Size | None, "multiply-accumulates at deployment resolution"] = None
    peak_activation: Annotated[Size | None, "bytes, fp32, batch 1, at deployment resolution"] = None

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
        str, PATH, "a device profile: shipped, in ./device_profiles, or in $NAS_DEVICE_PROFILES; [cpu,vpu]: several"
    ] = "vpu"
    budget_ms: Annotated[
        Milliseconds,
        "predicted latency limit at deployment resolution, batch 1; [20,30]: several in one run; null: limits.* alone",
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
    space: Annotated[str, PATH, "a shipped search space, or the path of a YAML"] = "quadranet"
    space_width: Annotated[
        float | None, Between(*WIDTHS), "multiplies the space's widths (null: as the space says)"
    ] = None
    kernel_sizes: Annotated[
        tuple[KernelSize, ...] | None,
        NOT_EMPTY,
        "blocks of these kernel sizes alone, as in [3,5] (null: those of the space)",
    ] = None
    avoid: Names = ()
    strategy: Annotated[
        str,
        Named(STRATEGIES),
        "proxyless (gates, by gradient); cut (where a trained network loses least; the default with one as init); or "
        "trials of single networks: evolution, optuna, random",
    ] = "proxyless"
    init: Annotated[
        FileName,
        "start from a supernet: pretrained (ships with this), a search's folder or its checkpoint; or from a trained "
        "network: efficientnet_lite0, a file of weights, timm:NAME",
    ] = None
    teacher: Annotated[
        FileName,
        "learn from a trained network's answers too: efficientnet_lite0, a file of weights, timm:NAME, a run's folder "
        "(null: with a trained network as init, that one)",
    ] = None
    data: Annotated[DataSettings, ReadAs(settings_class), "the images"] = field(default_factory=DataSettings)
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
    deploy: Annotated[
        tuple[Annotated[str, Named(TARGETS)], ...],
        ONE_OR_MORE,
        "make the network files for these runtimes when the run has finished, as nas.deploy does: [litert,openvino]",
    ] = ()
    deploy_precision: Annotated[
        str | None, OneOf(PRECISIONS_DEPLOYED), "of these files (null: each runtime's first, fp32)"
    ] = None
    log: LogNames = (CSV,)
    threads: Threads = None
    accelerator: Accelerator = "auto"
    distributed: Annotated[DistributedSettings, "several processes"] = field(default_factory=DistributedSettings)
    out: Annotated[RunFolder, "run folder (null: runs/TIME-DEVICE-BUDGET-SPACE)"] = None

    def __post_init__(self) -> None:
        check(self)
        if self.init is None and self.epochs < 1:
            raise UserError(f"epochs={self.epochs} is not 1 or more")

    @property
    def deploy_precisions(self) -> tuple[str, ...]:
        """Of the files for `deploy`; none for each runtime's first."""
        return (self.deploy_precision,) if self.deploy_precision else ()


@dataclass(frozen=True)
class TrainCommand:
    """Options of `python -m nas.train` beside data, recipe and checkpoint: which network, and how."""

    architecture: Annotated[FileName, "architecture.json of a search, or the folder that holds it"] = None
    weights: Annotated[
        FileName, "start from this safetensors file, or from that in a run's folder (null: from scratch)"
    ] = None
    teacher: Annotated[
        FileName,
        "learn from a trained network's answers too: efficientnet_lite0, a file of weights, timm:NAME, a run's folder",
    ] = None
    resolution: Annotated[Pixels, "pixels to train at"] = 64
    seed: Annotated[Seed, "of the first weights and of the order of images"] = 0
    log: LogNames = (CSV,)
    threads: Threads = None
    accelerator: Accelerator = "auto"
    distributed: Annotated[DistributedSettings, "several processes"] = field(default_factory=DistributedSettings)
    out: Annotated[RunFolder, "folder of the results (null: runs/TIME-train-SPACE)"] = None

    def __post_init__(self) -> None:
        if not self.architecture:
            raise UserError("which network? python -m nas.train runs/RUN/architecture.json data=... recipe=...")
        check(self)


@dataclass(frozen=True)
class PackCommand:
    """Options of `python -m nas.pack` beside data."""

    out: Annotated[RunFolder, "a new folder"] = None
    shard_mb: Annotated[float, Above(0), AtMost(10_000), "size of a shard, in MB"] = 100.0

    def __post_init__(self) -> None:
        if not self.out:
            raise UserError("where to? python -m nas.pack data=imagefolder data.root=PATH out=FOLDER")
        check(self)


@dataclass(frozen=True)
class Resumable:
    """What commands have whose runs can be stopped."""

    resume: Annotated[
        FileName,
        "the folder of a run that was stopped or killed: resumed with that run's options; auto: the run in out= is "
        "begun, or resumed once it was",
    ] = None


T = TypeVar("T")


def settings_from_dict(kind: type[T], values: dict[str, Any], prefix: str = "") -> T:
    """A settings dataclass from nested dicts, its options' names beginning with `prefix`.

    Raises `UserError` naming the option, the value and what is wanted, or the nearest option to an unknown one.
    """
    if kind is DataSettings:  # every data set has options of its own
        kind = settings_class(values)  # type: ignore[assignment]
    return read_options(kind, values, prefix)
