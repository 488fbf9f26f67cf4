"""Which kinds of image files can be decoded here: Pillow's own, and those of packages beside it. Not for decoding."""

from __future__ import annotations

from functools import cache
from importlib import import_module

PLAIN = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif"}
BESIDE = {  # (module, package) beside Pillow -> endings of images that it decodes
    ("pillow_heif", "pillow-heif"): {".heic", ".heif"},
    ("pillow_avif", "pillow-avif-plugin"): {".avif"},
}


@cache
def image_endings() -> frozenset[str]:
    """Endings of files that can be decoded, whose decoders are ready from then on; loads Pillow."""
    from PIL import features

    endings = PLAIN | ({".avif"} if features.check("avif") else set())
    for (module, _), own in BESIDE.items():
        try:
            plugin = import_module(module)
        except ImportError:
            continue
        if register := getattr(plugin, "register_heif_opener", None):
            register()
        endings |= own
    return frozenset(endings)


def packages_for(endings: frozenset[str]) -> dict[str, str]:
    """By ending, the package that would decode it, of images that are not among these endings."""
    return {ending: package for (_, package), own in BESIDE.items() for ending in own - endings}
