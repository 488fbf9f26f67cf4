"""The images of a search. Not for reading them: see `nas.data`."""

from __future__ import annotations

from dataclasses import replace

from nas.data import DataSet, load, no_images
from nas.run.settings import SearchSettings
from nas.supernet.origin import images_at_hand, origin_of


def images_of(settings: SearchSettings, own: DataSet | None = None) -> DataSet:
    """Those that the settings name, or the caller's own; from an earlier supernet networks can be chosen without any.

    Raises `UserError` for images that the supernet of `init` cannot be asked about, `BadFile`.
    """
    if own is not None or settings.init is None or images_at_hand(settings.data):
        data = own or load(settings.data)
        if settings.init is not None:
            changed = origin_of(settings.init).check_images(data.inputs, data.digest, data.record)
            data = replace(data, found=(*data.found, *changed))
        return data
    origin = origin_of(settings.init)
    data = no_images(settings.data.name, origin.inputs).varied(settings.data.flip, settings.data.crop)
    origin.check_inputs(data.inputs)
    return data
