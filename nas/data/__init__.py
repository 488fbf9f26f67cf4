"""Labelled images: the data sets that can be named, and what they are made of."""

from nas.data.cifar10 import load_cifar10
from nas.data.dataset import DataSet, Split
from nas.data.digits import load_digits
from nas.data.folder import load_imagefolder
from nas.data.packed import load_packed, read_packed
from nas.data.sources import ArraySource, EncodedSource, ImageSource
from nas.data.splits import no_images, split_by_class
from nas.data.webdataset import load_webdataset

__all__ = [
    "ArraySource",
    "DataSet",
    "EncodedSource",
    "ImageSource",
    "Split",
    "load_cifar10",
    "load_digits",
    "load_imagefolder",
    "load_packed",
    "load_webdataset",
    "no_images",
    "read_packed",
    "split_by_class",
]
