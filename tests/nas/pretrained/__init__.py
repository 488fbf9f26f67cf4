"""Tests of networks that others trained; `needs_lite0` marks tests of real weights."""

import pytest

from nas.pretrained.networks import package_of
from search_space import UserError


def is_installed(name: str) -> bool:
    """Whether the package that holds a network's weights is here."""
    try:
        package_of(name)
    except UserError:
        return False
    return True


needs_lite0 = pytest.mark.skipif(
    not is_installed("efficientnet_lite0"), reason="the package of the weights is not installed"
)
