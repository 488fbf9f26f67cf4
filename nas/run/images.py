"""The images of a search. Not for reading them: see `nas.data`."""

from __future__ import annotations

from nas import data as data_sets
from nas.data import DataSet
from nas.run.settings import DataSettings, SearchSettings
from nas.supernet.origin import images_at_hand, origin_of


def load_data(settings: DataSettings) -> DataSet:
    """The data set that the settings name. Raises `UserError` or `BadFile`."""
    share, limit = settings.validation_share, settings.limit
    match settings.name:
        case "digits":
            return data_sets.load_digits(share, limit)
        case "cifar10":
            return data_sets.load_cifar10(settings.root, share, limit)
        case "imagefolder":
            return data_sets.load_imagefolder(settings.root, share, limit)
        case "webdataset":
            return data_sets.load_webdataset(settings)
        case _:
            return data_sets.load_packed(settings.train, settings.test, share, limit)


def images_of(settings: SearchSettings, own: DataSet | None = None) -> DataSet:
    """Those that the settings name, or the caller's own; from an earlier supernet networks can be chosen without any.

    Raises `UserError` for images that the supernet of `init` cannot be asked about, `BadFile`.
    """
    if own is not None or settings.init is None or images_at_hand(settings.data):
        data = own or load_data(settings.data)
        if settings.init is not None:
            origin_of(settings.init).check_images(data.inputs, data.digest)
        return data
    return data_sets.no_images(settings.data.name, origin_of(settings.init).inputs)
