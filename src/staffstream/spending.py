"""What replies and background work cost, by day, user and staff member: rows in and out.

Counted in the transaction that saves what was paid for, so that a crash loses no count and a restart forgives nothing.
Days are UTC. Prices are Anthropic's list prices of October 2026 in US dollars for a million tokens; the setting
`prices` corrects them. Who asks at the same time may together go one reply over a cap: what a reply costs is known
when it ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from staffstream.database import Connection
from staffstream.domain import Scope
from staffstream.errors import StaffCapReached, UserCapReached
from staffstream.metrics import Metrics
from staffstream.settings import Settings

Kind = Literal["user", "staff"]
Prices = Mapping[str, tuple[float, float, float, float]]
"""(input, output, cache write, cache read) by the beginning of a model's name; the longest one that fits counts."""

LIST_PRICES: dict[str, tuple[float, float, float, float]] = {
    "claude-fable": (10, 50, 12.5, 1),
    "claude-fable-5-1": (10, 50, 12.5, 0.25),
    "claude-mythos": (10, 50, 12.5, 1),
    "claude-mythos-5-1": (10, 50, 12.5, 0.25),
    "claude-opus": (5, 25, 6.25, 0.5),
    "claude-opus-5-5": (4, 20, 5, 0.2),
    "claude-sonnet": (3, 15, 3.75, 0.3),
    "claude-sonnet-5": (2, 10, 2.5, 0.2),
    "claude-sonnet-5-5": (2, 10, 2.5, 0.1),
    "claude-haiku": (1, 5, 1.25, 0.1),
    "claude-haiku-5-5": (0.1, 0.5, 0.125, 0.01),  # prompts above 100,000 tokens cost five times that
    "staffstream-offline": (0, 0, 0, 0),
}
_DEAREST = max(LIST_PRICES.values())
_KINDS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@dataclass(frozen=True, slots=True)
class Spending:
    """What some calls to Claude took."""

    tokens: int
    cost_usd: float


def price_usage(model: str, usage: Mapping[str, int], corrections: Prices | None = None) -> Spending:
    """What a call took by the `usage` that Claude reported. A model of unknown price counts as the dearest one: a cap
    must not be got round by a new name.
    """
    prices = LIST_PRICES | dict(corrections or {})
    counts = [usage.get(kind, 0) for kind in _KINDS]
    fitting = [prefix for prefix in prices if model.startswith(prefix)]
    price = prices[max(fitting, key=len)] if fitting else _DEAREST
    cost = sum(count * each for count, each in zip(counts, price, strict=True)) / 1_000_000
    return Spending(sum(counts), cost)


class Ledger:
    """Keeps the sums of a server and its caps."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics

    def record(self, tx: Connection, scope: Scope, model: str, usage: Mapping[str, int]) -> None:
        """Add what a call to Claude took to today's sums of the user and of the staff member."""
        spent = price_usage(model, usage, self._settings.prices)
        add_spending(tx, scope, spent)
        self._metrics.note_spending(model, usage, spent.cost_usd)

    def check_caps(self, conn: Connection, scope: Scope) -> None:
        """Raise UserCapReached or StaffCapReached, with the seconds until midnight, when a day's cap was reached."""
        settings = self._settings
        if _is_reached(conn, "user", scope.user_id, settings.user_tokens_per_day, settings.user_cost_per_day):
            raise UserCapReached(retry_after_s=_seconds_to_midnight())
        if _is_reached(conn, "staff", scope.staff_id, settings.staff_tokens_per_day, settings.staff_cost_per_day):
            raise StaffCapReached(retry_after_s=_seconds_to_midnight())


def add_spending(tx: Connection, scope: Scope, spent: Spending) -> None:
    """Add to today's sums of the user and of the staff member."""
    for kind, holder in (("user", scope.user_id), ("staff", scope.staff_id)):
        tx.execute(
            f"INSERT INTO spending_days (day, {kind}_id, tokens, cost_usd) VALUES (?, ?, ?, ?)"
            f" ON CONFLICT ({kind}_id, day) WHERE {kind}_id IS NOT NULL DO UPDATE SET"
            " tokens = tokens + excluded.tokens, cost_usd = cost_usd + excluded.cost_usd",
            (_today(), holder, spent.tokens, spent.cost_usd),
        )


def load_spending(conn: Connection, kind: Kind, holder: str) -> Spending:
    """What a user, or a staff member, has taken today."""
    row = conn.execute(
        f"SELECT tokens, cost_usd FROM spending_days WHERE {kind}_id = ? AND day = ?", (holder, _today())
    ).fetchone()
    return Spending(row["tokens"], row["cost_usd"]) if row else Spending(0, 0.0)


def has_old_days(conn: Connection) -> bool:
    """Whether there are sums of days that are more than a year past."""
    return conn.execute("SELECT 1 FROM spending_days WHERE day < ? LIMIT 1", (_day_before(400),)).fetchone() is not None


def drop_old_days(tx: Connection) -> None:
    """Erase those."""
    tx.execute("DELETE FROM spending_days WHERE day < ?", (_day_before(400),))


def _is_reached(conn: Connection, kind: Kind, holder: str, most_tokens: int | None, most_usd: float | None) -> bool:
    if most_tokens is None and most_usd is None:
        return False
    spent = load_spending(conn, kind, holder)
    return (most_tokens is not None and spent.tokens >= most_tokens) or (
        most_usd is not None and spent.cost_usd >= most_usd
    )


def _today() -> str:
    return _day_before(0)


def _day_before(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).date().isoformat()


def _seconds_to_midnight() -> float:
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (midnight - now).total_seconds()
