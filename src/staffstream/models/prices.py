"""What models cost: Anthropic's list prices of October 2026 in US dollars for a million tokens. The setting `prices`
corrects them.
"""

from collections.abc import Mapping
from typing import NamedTuple

Corrections = Mapping[str, tuple[float, float, float, float]]
"""Prices in the order of the fields of `Prices`, by the beginning of a model's name."""


class Prices(NamedTuple):
    """US dollars for a million tokens of each kind."""

    input: float
    output: float
    cache_write: float
    cache_read: float


class Spending(NamedTuple):
    """What some calls to a provider took."""

    tokens: int
    cost_usd: float


_LIST = {
    "claude-fable": Prices(10, 50, 12.5, 1),
    "claude-fable-5-1": Prices(10, 50, 12.5, 0.25),
    "claude-mythos": Prices(10, 50, 12.5, 1),
    "claude-mythos-5-1": Prices(10, 50, 12.5, 0.25),
    "claude-opus": Prices(5, 25, 6.25, 0.5),
    "claude-opus-5-5": Prices(4, 20, 5, 0.2),
    "claude-sonnet": Prices(3, 15, 3.75, 0.3),
    "claude-sonnet-5": Prices(2, 10, 2.5, 0.2),
    "claude-sonnet-5-5": Prices(2, 10, 2.5, 0.1),
    "claude-haiku": Prices(1, 5, 1.25, 0.1),
    "claude-haiku-5-5": Prices(0.1, 0.5, 0.125, 0.01),  # prompts above 100,000 tokens cost five times that
    "staffstream-offline": Prices(0, 0, 0, 0),
}
_DEAREST = max(_LIST.values())
_KINDS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def list_prices(corrections: Corrections | None = None) -> dict[str, Prices]:
    """Prices by the beginning of a model's name; the longest one that fits counts."""
    return _LIST | {name: Prices(*each) for name, each in (corrections or {}).items()}


def price_usage(model: str, usage: Mapping[str, int], corrections: Corrections | None = None) -> Spending:
    """What a call took, by the `usage` that the provider reported. A model of unknown price counts as
    the most expensive one, so that a new name does not evade a cap.
    """
    prices = list_prices(corrections)
    counts = [usage.get(kind, 0) for kind in _KINDS]
    fitting = [prefix for prefix in prices if model.startswith(prefix)]
    price = prices[max(fitting, key=len)] if fitting else _DEAREST
    cost = sum(count * each for count, each in zip(counts, price, strict=True)) / 1_000_000
    return Spending(sum(counts), cost)
