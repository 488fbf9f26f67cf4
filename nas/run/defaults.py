"""Options completed as the command completes them: by the data set named, or by what a search starts from.

Not for checking options: that is `nas.run.settings`. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nas.data.registry import find, known, option_defaults, peek, settings_class
from nas.data.settings import DataSettings
from nas.run.settings import FileName, SearchSettings, settings_from_dict
from nas.supernet.origin import is_published, origin_of, published_origin, with_init_defaults
from search_space.errors import UserError
from search_space.reading import declared
from search_space.reading import shown as as_shown

TRANSFER: Mapping[str, Mapping[str, Any]] = {
    "train": {"lr": 2e-4, "weight_decay": 0.01},
    "gates": {"lr": 0.03},
    "finetune": {"lr": 2e-4},
}
"""Of a search whose weights were trained on other images, with how long it is: `EPOCHS`."""
EPOCHS = {"warmup": 1, "search": 2, "finetune": 8}
CUT: Mapping[str, Mapping[str, Any]] = {"train": {"weight_decay": 0.01}, "finetune": {"lr": 6e-4}}
CUT_EPOCHS = {"warmup": 0, "search": 0, "finetune": 6}
"""The same two of `strategy=cut`, which trains no supernet: the default with a published network."""
PIXELS = 160  # EfficientNet-Lite0 as published, on Imagenette: 88.5 % at 128 pixels, 92.0 % at 160 and at 224


def with_defaults(options: Mapping[str, Any], class_names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Options of a search, nested as in `SearchSettings`, completed by the defaults that their data set states.

    With the supernet of an earlier search as `init` it is what that was trained for, and no epochs, unless the classes
    are others: then, and with a published network, it is trained on, for few epochs. class_names: of the caller's own
    images. Raises `UnknownName` for a data set that does not exist, and `UserError` for a supernet trained on one from
    elsewhere, unless the options name it too: it is a module to be imported, and a supernet's file may come from
    anywhere.
    """
    for option in declared(SearchSettings):
        values = options.get(option.name, {})
        if option.group is not None and not isinstance(values, Mapping):
            raise UserError(f"{option.name}={as_shown(values)} is no group of options, which Python gives as a dict")
    data, init = dict(options.get("data", {})), settings_from_dict(_Init, {"init": options.get("init")}).init
    if init is None:
        return _by_data_set(options)
    if is_published(init):
        _, network = published_origin(init)
        shown = {"resolution": PIXELS, "mean": network.mean, "std": network.std}
        own: dict[str, Any] = {"space": network.space, "space_width": network.width, "strategy": "cut"}
        return _transferring(own, options, shown)
    if class_names is None and "name" in data:
        class_names = _classes(_by_data_set(options)["data"])
    origin = origin_of(init)
    if class_names is not None and not origin.has_classes(class_names):
        earlier, inputs = origin.settings, origin.inputs
        named = {
            **{name: getattr(earlier, name) for name in ("space", "space_width", "kernel_sizes", "avoid")},
            "train": asdict(earlier.train),
        }
        shown = {"resolution": earlier.data.resolution, "mean": inputs.mean, "std": inputs.std}
        return _transferring(named, options, shown)
    complete = with_init_defaults(options)
    trained = complete["data"]
    if "name" not in data and trained["name"] not in known():
        raise UserError(
            f"init={options['init']} was trained on data={trained['name']}, which is no data set of this package; "
            f"add data={trained['name']} to have that module imported"
        )
    own = settings_class(trained).__dataclass_fields__
    return {**complete, "data": {key: value for key, value in trained.items() if key in own or key in data}}


@dataclass(frozen=True)
class _Init:
    init: FileName = None


def _classes(data: Mapping[str, Any]) -> tuple[str, ...] | None:
    """None where they cannot be told; what is wrong is said when the search is planned."""
    try:
        return peek(settings_from_dict(DataSettings, dict(data), "data.")).class_names
    except UserError:
        return None


def _by_data_set(options: Mapping[str, Any], epochs: Mapping[str, int] | None = None) -> dict[str, Any]:
    data = dict(options.get("data", {}))
    name = str(data.setdefault("name", DataSettings.name))
    epochs = epochs or asdict(find(name).epochs)
    defaults = {key: value for key, value in option_defaults(name).items() if key != "epochs"}
    return {
        "epochs": epochs["search"],
        **options,
        "data": {**defaults, **data},
        "warmup": {"epochs": epochs["warmup"], **options.get("warmup", {})},
        "finetune": {"epochs": epochs["finetune"], **options.get("finetune", {})},
    }


def _transferring(named: Mapping[str, Any], options: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    """For weights that were trained on other images.

    named: what the trained network or supernet says of itself; shown: how it was shown images.
    """
    data = {**shown, "crop": "shift", **options.get("data", {})}
    cut = {**named, **options}.get("strategy") == "cut"
    given = CUT if cut else TRANSFER
    groups = {group: {**named.get(group, {}), **values, **options.get(group, {})} for group, values in given.items()}
    return _by_data_set({**named, **options, **groups, "data": data}, CUT_EPOCHS if cut else EPOCHS)
