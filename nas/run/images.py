"""The images of a search. Not for reading them: see `nas.data`."""

from __future__ import annotations

from dataclasses import replace

from nas.data import DataSet, load, no_images
from nas.data.record import Record
from nas.run.settings import SearchSettings
from nas.supernet.origin import images_at_hand, origin_of


def images_of(settings: SearchSettings, own: DataSet | None = None) -> DataSet:
    """Those that the settings name, or the caller's own; from an earlier supernet networks can be chosen without any.

    Raises `UserError` for images that the supernet of `init` cannot be asked about, `BadFile`.
    """
    if own is not None or settings.init is None or images_at_hand(settings.data):
        data = own or load(settings.data)
        if settings.init is not None:
            data = _as_before(data, settings)
        return data
    origin = origin_of(settings.init)
    data = no_images(settings.data.name, origin.inputs).varied(settings.data.flip, settings.data.crop)
    origin.check_inputs(data.inputs)
    return data


def _as_before(data: DataSet, settings: SearchSettings) -> DataSet:
    """With the images that the supernet was trained on in the split where they were, and notes on what changed."""
    assert settings.init is not None
    origin, notes = origin_of(settings.init), tuple[str, ...]()
    own, record = origin.settings.data, Record.load(origin.path.parent)
    if record and (own.validation_share, own.limit) == (settings.data.validation_share, settings.data.limit):
        before, data = data, data.divided_as(record)
        if data.digest != before.digest:
            counts = f"train {len(data.train)}, validation {len(data.validation)}, test {len(data.test)}"
            notes = (f"images that were there before stay in their splits: {counts}",)
    changed = origin.check_images(data.inputs, data.digest, data.record)
    return replace(data, found=(*data.found, *notes, *changed))
