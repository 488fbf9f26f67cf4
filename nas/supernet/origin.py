"""Where a search starts with `init=`: a supernet that an earlier training left. No torch here.

`init=pretrained` is the one that ships (nas/supernets); a run's folder, any checkpoint.safetensors, or a weight source
of your own by its dotted path will do as well. So will a network that others trained (`is_published`), whose space is
then searched.
The file says what the supernet was trained for, and that becomes the default of a search from it: its space
and images, and no epochs. Networks are then chosen and compared with the weights as they are. Not for resuming.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from nas.data.registry import settings_from_file
from nas.data.settings import DataSettings
from nas.pretrained.networks import TIMM, Published, package_of, packaged, published
from nas.run.result import InputFormat, load_result
from nas.run.settings import SearchSettings, settings_from_dict
from nas.run.space import space_of
from search_space.errors import BadFile, UnknownName, UserError, one_line
from search_space.named import is_dotted, load_named
from search_space.narrowed import cut_words
from search_space.reading import read
from search_space.sums import require_sum

if TYPE_CHECKING:
    from nas.data.record import Record

CHECKPOINT = "checkpoint.safetensors"  # of a run folder: the supernet and its gates
SOURCES = {"pretrained": "nas.supernets:quadranet_cifar10"}
"""Weight sources by name: functions without arguments that give the path of a supernet's file. Anybody's own is named
by its full dotted path, `init=package.module:function`."""
KEPT = ("space", "space_width", "kernel_sizes", "avoid", "data", "train")
"""Settings of the training that a search from it keeps."""

TRAINED_FOR = "trained_for"  # in a supernet's file: JSON in UTF-8, a tensor since the header's entries have no order
DIGEST = "digest"  # the tensor over the others; files of earlier versions have none
STATISTICS = ".statistics."  # in the names of tensors of supernets that keep a trained network's
TRIAL_IMAGES = 1000  # that networks are compared on, by default: seconds instead of minutes


@dataclass(frozen=True)
class Origin:
    """A supernet's file and what it was trained for.

    gates: the name of the gates in it, None where it has none; splits: the digest of the images' division;
    keeps_statistics: whether its BatchNorms have those of a trained network.
    """

    path: Path
    gates: str | None
    settings: SearchSettings
    inputs: InputFormat
    splits: str
    keeps_statistics: bool = False

    def has_classes(self, names: tuple[str, ...]) -> bool:
        """Whether it was trained for these classes; for others its weights are a start, and need a new classifier."""
        return self.inputs.class_names == names

    def check(self, settings: SearchSettings) -> None:
        """Raise `UserError` for a search of another supernet, or that needs images, or gates, that are not there."""
        self._check_supernet(settings)
        epochs = {
            "warmup.epochs": settings.warmup.epochs,
            "epochs": settings.epochs,
            "finetune.epochs": settings.finetune.epochs,
        }
        wanting = [f"{name}={number}" for name, number in epochs.items() if number]
        if settings.strategy != "proxyless":
            wanting.insert(0, f"strategy={settings.strategy}")
        if wanting and not images_at_hand(settings.data):
            raise UserError(
                f"{' '.join(wanting)} cannot be done without images; add data={settings.data.name} data.root=FOLDER, "
                f"or leave {'them' if len(wanting) > 1 else 'it'} out"
            )
        if settings.strategy == "proxyless" and settings.epochs == 0 and self.gates is None:
            raise UserError(
                f"'{self.path}' has no gates to choose by; add strategy=evolution, or epochs=1 to train them"
            )

    def _check_supernet(self, settings: SearchSettings) -> None:
        own = self.settings
        known = not _is_elsewhere(own.space)  # otherwise weights that do not fit are refused when they are loaded
        if known and space_of(settings) != space_of(own):
            asked, held = (cut_words(s.kernel_sizes, s.avoid) for s in (settings, own))
            if asked != held:
                raise UserError(
                    f"'{self.path}' holds a supernet of space={own.space} {f'cut by {held}' if held else 'as a whole'},"
                    f" not {f'cut by {asked}' if asked else 'as a whole'}; leave out kernel_sizes= and avoid=, or train"
                    " a supernet so by leaving out init="
                )
            if settings.space == own.space:
                raise UserError(
                    f"'{self.path}' holds a supernet of space={own.space} with space_width={_shown(own.space_width)}, "
                    f"not with space_width={_shown(settings.space_width)}; leave out space_width="
                )
            raise UserError(
                f"'{self.path}' holds a supernet of space={own.space}, not of space={settings.space}; leave out space="
            )
        if own.data.resolution != settings.data.resolution:
            raise UserError(
                f"'{self.path}' was trained at {own.data.resolution} pixels, not at {settings.data.resolution}; leave "
                f"out data.resolution=, or train a supernet at {settings.data.resolution} by leaving out init="
            )
        shared = own.train.share_weights
        if shared is not None and shared != settings.train.share_weights:
            raise UserError(
                f"'{self.path}' was trained with train.share_weights={_shown(shared)}, not "
                f"{_shown(settings.train.share_weights)}; leave out train.share_weights="
            )

    def check_inputs(self, inputs: InputFormat) -> None:
        """Raise `UserError` for images of other classes, or shown in another way where the file says in which."""
        own, data = self.inputs, self.settings.data
        if inputs.class_names != own.class_names:
            raise UserError(
                f"'{self.path}' was trained on {data.name}, with {len(own.class_names)} classes such as "
                f"'{own.class_names[0]}'; the images named by data= have others"
            )
        if (inputs.mean, inputs.std) != (own.mean, own.std):
            raise UserError(
                f"'{self.path}' was trained with data.mean={_shown(own.mean)} data.std={_shown(own.std)}, not with "
                f"data.mean={_shown(inputs.mean)} data.std={_shown(inputs.std)}; leave out data.mean= and data.std="
            )
        trained, asked = own.preprocessing, inputs.preprocessing
        if trained is not None and asked is not None and trained != asked:
            raise UserError(
                f"'{self.path}' was trained with data.flip={_shown(trained.training_flip)} "
                f"data.crop={trained.training_crop}, not with data.flip={_shown(asked.training_flip)} "
                f"data.crop={asked.training_crop}; leave out data.flip= and data.crop=, or train a supernet so by "
                "leaving out init="
            )

    def check_images(self, inputs: InputFormat, splits: str, now: Record | None = None) -> tuple[str, ...]:
        """Raise `UserError` for images as `check_inputs` does, or if held-out ones were trained on.

        splits: their digest. now: what image is in which split, where that is known; then images may come and go, and
        a sentence on what changed is returned.
        """
        self.check_inputs(inputs)
        data = self.settings.data
        if splits == self.splits:
            return ()
        from nas.data.record import Record

        before = Record.load(self.path.parent)
        changes = before.changes(now) if before and now else ""
        if before and now and not (met := before.met_again(now)):
            return (f"the images changed since '{self.path}' was trained on them: {changes}",) if changes else ()
        if changes:
            raise UserError(
                f"the images changed since '{self.path}' was trained on them: {changes}; {met}, so networks would be "
                "compared on images that they were trained on; put the images back, or train a supernet on them by "
                "leaving out init="
            )
        raise UserError(
            f"'{self.path}' was trained on {data.name} with data.validation_share={data.validation_share:g} "
            f"data.limit={_shown(data.limit)}; divided otherwise, its networks would be compared on images that "
            "they were trained on"
        )


def _shown(value: float | str | Sequence[float] | None) -> str:
    """As it is written in options."""
    return json.dumps(value, separators=(",", ":"))


def trained_for(settings: SearchSettings, inputs: InputFormat, splits: str) -> bytes:
    """What a supernet's file says of it, for `origin_of`."""
    values = asdict(settings)
    plain = {name: values[name] for name in KEPT}
    return json.dumps({"settings": plain, "inputs": asdict(inputs), "splits": splits}).encode()


def gates_key(target: str | None = None) -> str:
    """The name of alpha in a checkpoint; `target`: of which, where several share the supernet."""
    return f"gates.{target}.alpha" if target else "gates.alpha"


def find_checkpoint(run_folder: Path) -> tuple[Path, str]:
    """The file with a run's supernet and the name of its gates there; targets of a front share the one above them."""
    own, shared = run_folder / CHECKPOINT, run_folder.resolve().parent / CHECKPOINT
    if shared.is_file() and not own.is_file():
        return shared, gates_key(run_folder.resolve().name)
    return own, gates_key()


def _asked_of(missing: Path) -> str:
    """Where a run trained nothing, a hint at the supernet that it was chosen from."""
    try:
        settings = load_result(missing.with_name("architecture.json")).provenance["settings"]
        return f"; that run trained nothing, its supernet is init={settings['init']}" if settings["init"] else ""
    except (BadFile, KeyError, TypeError):
        return ""


def is_published(init: str) -> bool:
    """Whether `init=` means a network that others trained: by name, of timm, or a file that no search wrote."""
    if init in packaged() or init.startswith(TIMM):
        return True
    path = Path(init).expanduser()
    if path.suffix in (".pth", ".pt"):
        return True
    return path.suffix == ".safetensors" and path.is_file() and not _is_supernet(path)


def _is_supernet(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy") as file:
            return TRAINED_FOR in file.keys() or path.name == CHECKPOINT  # noqa: SIM118
    except (SafetensorError, OSError):
        return path.name == CHECKPOINT


@cache
def published_origin(init: str) -> tuple[str, Published]:
    """Name and facts of the network that `init=` means, found without torch unless it is a file.

    Raises `UserError`, `BadFile` too.
    """
    name = init.partition(".")[0] if init.startswith(TIMM) else init
    if name in published():
        if name in packaged():
            package_of(name)
        return name, published()[name]
    if init.startswith(TIMM):
        raise UnknownName("trained network", init, [known for known in published() if known.startswith(TIMM)])
    from nas.pretrained.sources import load_trained

    name = load_trained(init).name
    return name, published()[name]


@cache
def origin_of(init: str) -> Origin:
    """What `init=` names: a weight source, a run's folder or a supernet's file. Raises `UserError`, `BadFile` too."""
    named = init in SOURCES or is_dotted(init)
    path, gates = _from_source(init) if named else Path(init).expanduser(), gates_key()
    if path.is_dir():
        path, gates = find_checkpoint(path)
    try:
        require_sum(path)
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            purpose = json.loads(file.get_tensor(TRAINED_FOR).tobytes()) if TRAINED_FOR in names else {}
        settings = purpose["settings"]
        return Origin(
            path,
            gates if gates in names else None,
            settings_from_dict(SearchSettings, {**settings, "data": settings_from_file(settings["data"])}),
            read(InputFormat, purpose["inputs"], f"the input in '{path}'"),
            purpose["splits"],
            any(STATISTICS in name for name in names),
        )
    except FileNotFoundError as error:
        raise BadFile(
            f"init={init}: no file '{path}'; give pretrained, {', '.join(packaged())}, a search's folder or its "
            f"{CHECKPOINT}{_asked_of(path)}"
        ) from error
    except BadFile:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise BadFile(
            f"init={init}: '{path}' is not the supernet of a search of this version; give a search's folder or its "
            f"{CHECKPOINT}"
        ) from error


def _from_source(init: str) -> Path:
    """The file that a weight source gives, whose every failure is said on one line."""
    source = load_named("init", init, SOURCES, 0)
    try:
        return Path(source())
    except UserError:
        raise
    except Exception as error:  # anybody's function may raise anything
        raise UserError(f"init={init}: the weight source failed, {type(error).__name__}: {one_line(error)}") from error


def with_init_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options completed by what the supernet was trained for, and by no epochs.

    Not by where it kept a cache: that is a place to write to, and the file may come from anywhere.
    """
    trained = asdict(origin_of(options["init"]).settings)
    if "space" not in options and _is_elsewhere(trained["space"]):
        raise UserError(
            f"init={options['init']}: its supernet is of space={trained['space']}, a file that is not here; say where "
            "it is with space=PATH"
        )
    trained["data"].pop("cache", None)
    defaults: dict[str, Any] = {
        **{name: trained[name] for name in KEPT},
        **{name: {"epochs": 0} for name in ("warmup", "finetune")},
        "epochs": 0,
        "trial_images": TRIAL_IMAGES,
    }
    groups = {
        name: {**defaults[name], **options.get(name, {})} for name in defaults if isinstance(defaults[name], dict)
    }
    return {**defaults, **options, **groups}


def _is_elsewhere(space: str) -> bool:
    """Whether it is a file that is not there, as seen from the folder that this process runs in."""
    return space.endswith((".yaml", ".yml")) and not Path(space).is_file()


def images_at_hand(data: DataSettings) -> bool:
    """Whether the settings say where the images are; those of the shipped supernet cannot be shipped."""
    return data.name != "cifar10" or data.root is not None
