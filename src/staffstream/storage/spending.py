"""What replies and background work cost, by day, user and staff member: rows in and out.

An entry is made in the transaction that saves what was paid for, so that a crash loses no count and a restart forgives
nothing; entries are summed up by day every few seconds.
Days are UTC. What a reply costs is known when it ends: until then it counts with the most that it may take,
so that many requests at once do not evade a cap. Queued replies are looked at when their turn comes; those
that are begun at the same moment (ASYNC_CONCURRENCY) may together go over it.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

from staffstream.domain import Scope, make_id
from staffstream.errors import StaffCapReached, UserCapReached
from staffstream.models.prices import Spending, price_usage
from staffstream.settings import Settings
from staffstream.storage.database import Connection
from staffstream.support.metrics import Metrics

Kind = Literal["user", "staff"]
_Cap = tuple[tuple[Kind, str], int | None, float | None, type[UserCapReached] | type[StaffCapReached]]
_LET_ONE_END_S = 15


class Ledger:
    """Keeps the sums of a server and its caps."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics

    def record(self, tx: Connection, scope: Scope, model: str, usage: Mapping[str, int]) -> Callable[[], None]:
        """Add what a call to the provider took to today's sums of the user and of the staff member. Returns what counts
        it in the metrics, to be called after the commit: the transaction may be run more than once.
        """
        spent = price_usage(model, usage, self._settings.prices)
        add_spending(tx, scope, spent)
        return lambda: self._metrics.note_spending(model, usage, spent.cost_usd)

    def check_caps(self, conn: Connection, scope: Scope) -> None:
        """As `check_spent`, and raise the same, with a wait that lets one of them end, when the replies that are being
        made could reach a cap.
        """
        self.check_spent(conn, scope)
        for holder, tokens, usd, reached in self._list_caps(scope):
            if _is_over(self._sum_going(conn, *holder), tokens, usd):
                detail = "The replies that are being made may use up the rest of the day's cap. Let one end."
                raise reached(detail, retry_after_s=_LET_ONE_END_S)

    def check_spent(self, conn: Connection, scope: Scope) -> None:
        """Raise UserCapReached or StaffCapReached, with the seconds until midnight, when a day's cap was reached."""
        for holder, tokens, usd, reached in self._list_caps(scope):
            if _is_over(load_spending(conn, *holder), tokens, usd):
                raise reached(retry_after_s=_seconds_to_midnight())

    def _list_caps(self, scope: Scope) -> Iterator[_Cap]:
        """The caps that are set."""
        settings = self._settings
        users = settings.user_tokens_per_day, settings.user_cost_per_day
        members = settings.staff_tokens_per_day, settings.staff_cost_per_day
        if users != (None, None):
            yield ("user", scope.user_id), *users, UserCapReached
        if members != (None, None):
            yield ("staff", scope.staff_id), *members, StaffCapReached

    def _sum_going(self, conn: Connection, kind: Kind, holder: str) -> Spending:
        """What has been taken today, and the most that the replies being made may take."""
        settings, total = self._settings, load_spending(conn, kind, holder)
        for row in conn.execute(
            "SELECT own_model, context_budget_tokens, max_output_tokens FROM runs JOIN scopes ON scopes.id = scope_id"
            " JOIN (SELECT id AS member_id, model AS own_model, context_budget_tokens, max_output_tokens FROM staff)"
            f" AS member ON member_id = staff_id WHERE state IN ('building', 'streaming') AND {kind}_id = ?",
            (holder,),
        ):
            most = {
                "input_tokens": row["context_budget_tokens"] or settings.context_budget_tokens,
                "output_tokens": row["max_output_tokens"] or settings.max_output_tokens,
            }
            going = price_usage(row["own_model"] or settings.model, most, settings.prices)
            total = Spending(total.tokens + going.tokens, total.cost_usd + going.cost_usd)
        return total


def add_spending(tx: Connection, scope: Scope, spent: Spending) -> None:
    """Add to what the user and the staff member have taken today."""
    tx.execute(
        "INSERT INTO spending_entries (id, day, user_id, staff_id, tokens, cost_usd) VALUES (?, ?, ?, ?, ?, ?)",
        (make_id(), _today(), scope.user_id, scope.staff_id, spent.tokens, spent.cost_usd),
    )


def load_spending(conn: Connection, kind: Kind, holder: str) -> Spending:
    """What a user, or a staff member, has taken today."""
    row = conn.execute(
        "SELECT coalesce(sum(tokens), 0) AS tokens, coalesce(sum(cost_usd), 0.0) AS cost_usd FROM"
        f" (SELECT tokens, cost_usd FROM spending_days WHERE {kind}_id = ?1 AND day = ?2"
        f" UNION ALL SELECT tokens, cost_usd FROM spending_entries WHERE {kind}_id = ?1 AND day = ?2) AS parts",
        (holder, _today()),
    ).fetchone()
    return Spending(row["tokens"], row["cost_usd"])


def has_entries(conn: Connection) -> bool:
    """Whether something was taken that is not in the sums of the days yet."""
    return conn.execute("SELECT 1 FROM spending_entries LIMIT 1").fetchone() is not None


def sum_up_entries(tx: Connection) -> None:
    """Move what was taken into the sums of the days."""
    sums: dict[tuple[Kind, str, str], Spending] = {}
    for row in tx.execute("DELETE FROM spending_entries RETURNING day, user_id, staff_id, tokens, cost_usd").fetchall():
        holders: tuple[tuple[Kind, str], ...] = (("user", row["user_id"]), ("staff", row["staff_id"]))
        for kind, holder in holders:
            known = sums.get((kind, holder, row["day"]), Spending(0, 0.0))
            spent = Spending(known.tokens + row["tokens"], known.cost_usd + row["cost_usd"])
            sums[kind, holder, row["day"]] = spent
    for (kind, holder, day), spent in sorted(sums.items(), key=lambda item: item[0]):
        tx.execute(
            f"INSERT INTO spending_days (day, {kind}_id, tokens, cost_usd) SELECT ?1, ?2, ?3, ?4"
            " WHERE ?5 = 'user' OR EXISTS (SELECT 1 FROM staff WHERE id = ?2)"  # it may be erased by now
            f" ON CONFLICT ({kind}_id, day) WHERE {kind}_id IS NOT NULL DO UPDATE SET"
            " tokens = spending_days.tokens + excluded.tokens, cost_usd = spending_days.cost_usd + excluded.cost_usd",
            (day, holder, spent.tokens, spent.cost_usd, kind),
        )


def has_old_days(conn: Connection) -> bool:
    """Whether there are sums of days that are more than a year past."""
    return conn.execute("SELECT 1 FROM spending_days WHERE day < ? LIMIT 1", (_day_before(400),)).fetchone() is not None


def drop_old_days(tx: Connection) -> None:
    """Erase those."""
    tx.execute("DELETE FROM spending_days WHERE day < ?", (_day_before(400),))


def _is_over(spent: Spending, most_tokens: int | None, most_usd: float | None) -> bool:
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
