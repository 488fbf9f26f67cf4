"""The images of a search. Not for reading them: see `nas.data`."""

from __future__ import annotations

from dataclasses import replace

from nas.data import DataSet, load, no_images
from nas.data.record import Record
from nas.data.settings import Colour, DataSettings
from nas.run.settings import SearchSettings
from nas.supernet.origin import Origin, images_at_hand, is_published, origin_of


def images_of(settings: SearchSettings, own: DataSet | None = None) -> DataSet:
    """Those that the settings name, or the caller's own; from an earlier supernet networks can be chosen without any.

    Where weights are inherited, images are normalised as the trained network's were. A supernet of other classes can be
    trained on, but not asked as it is.
    Raises `UserError` for images that the supernet of `init` cannot be asked about, `BadFile`.
    """
    if settings.init is None:
        return own or load(settings.data)
    if is_published(settings.init):
        from nas.pretrained.sources import load_trained

        trained = load_trained(settings.init)
        return _normalised(own or load(settings.data), settings.data, trained.mean, trained.std)
    origin = origin_of(settings.init)
    if own is None and not images_at_hand(settings.data):
        data = no_images(settings.data.name, origin.inputs).as_asked(settings.data)
        origin.check_inputs(data.inputs)
        return data
    data, before = own or load(settings.data), origin.inputs
    trains = settings.warmup.epochs + settings.epochs + settings.finetune.epochs > 0
    if trains and not origin.has_classes(data.class_names):
        return _normalised(data, settings.data, before.mean, before.std)
    if origin.keeps_statistics:
        data = _normalised(data, settings.data, before.mean, before.std)
    return _as_before(data, origin, settings)


def _normalised(data: DataSet, settings: DataSettings, mean: Colour, std: Colour) -> DataSet:
    """As the trained weights want it, unless it is asked for otherwise."""
    return replace(data, mean=settings.mean or mean, std=settings.std or std)


def _as_before(data: DataSet, origin: Origin, settings: SearchSettings) -> DataSet:
    """With the images that the supernet was trained on in the split where they were, and notes on what changed."""
    own, record, notes = origin.settings.data, Record.load(origin.path.parent), tuple[str, ...]()
    if record and (own.validation_share, own.limit) == (settings.data.validation_share, settings.data.limit):
        before, data = data, data.divided_as(record)
        if data.digest != before.digest:
            counts = f"train {len(data.train)}, validation {len(data.validation)}, test {len(data.test)}"
            notes = (f"images that were there before stay in their splits: {counts}",)
    changed = origin.check_images(data.inputs, data.digest, data.record)
    return replace(data, found=(*data.found, *notes, *changed))
