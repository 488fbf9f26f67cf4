"""The space that a search is asked to search: named, scaled, cut. No torch here."""

from __future__ import annotations

from nas.run.settings import SearchSettings
from search_space import SearchSpace, load_space
from search_space.narrowed import narrowed


def space_of(settings: SearchSettings) -> SearchSpace:
    """Raises `UserError` for a space that cannot be read, and for a cut of what is not there or of all that is."""
    space = load_space(settings.space, settings.space_width)
    return narrowed(space, settings.kernel_sizes, settings.avoid, settings.deployment_resolution)
