"""Search strategies: one file each, found by name or by full dotted path.

A new strategy is one file beside these and one line in `STRATEGIES`; or a file anywhere, asked for as
`strategy=package.module:value`. The laws that every strategy keeps are in tests/contracts/test_strategies.py.
"""

from typing import TYPE_CHECKING, cast

from search_space.named import load_named

if TYPE_CHECKING:
    from nas.strategies.base import Strategy

STRATEGIES = {
    "cut": "nas.strategies.cut:strategy",
    "evolution": "nas.strategies.subnetworks:evolution",
    "optuna": "nas.strategies.subnetworks:optuna",
    "proxyless": "nas.strategies.proxyless:strategy",
    "random": "nas.strategies.subnetworks:random",
}


def load_strategy(name: str) -> "Strategy":
    """The strategy of that name. Raises `UserError`."""
    return cast("Strategy", load_named("strategy", name, STRATEGIES, ("check", "total_steps", "search")))


__all__ = ["STRATEGIES", "load_strategy"]
