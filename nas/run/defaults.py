"""Options completed as the command completes them: by the data set named, or by the supernet that a search starts from.

Not for checking options: that is `nas.run.settings`. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nas.data.registry import find, known, option_defaults, settings_class
from nas.data.settings import DataSettings
from nas.supernet.origin import with_init_defaults
from search_space.errors import UserError


def with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a search, nested as in `SearchSettings`, completed by the defaults that their data set states.

    With `init` it is what that supernet was trained for, and no epochs. Raises `UnknownName` for a data set that does
    not exist, and `UserError` for a supernet trained on one from elsewhere, unless the options name it too: it is
    a module to be imported, and a supernet's file may come from anywhere.
    """
    data = dict(options.get("data", {}))
    if options.get("init") is None:
        name = str(data.setdefault("name", DataSettings.name))
        epochs = asdict(find(name).epochs)
        defaults = {key: value for key, value in option_defaults(name).items() if key != "epochs"}
        return {
            "epochs": epochs["search"],
            **options,
            "data": {**defaults, **data},
            "warmup": {"epochs": epochs["warmup"], **options.get("warmup", {})},
            "finetune": {"epochs": epochs["finetune"], **options.get("finetune", {})},
        }
    complete = with_init_defaults(options)
    trained = complete["data"]
    if "name" not in data and trained["name"] not in known():
        raise UserError(
            f"init={options['init']} was trained on data={trained['name']}, which is no data set of this package; "
            f"add data={trained['name']} to have that module imported"
        )
    own = settings_class(trained).__dataclass_fields__
    return {**complete, "data": {key: value for key, value in trained.items() if key in own or key in data}}
