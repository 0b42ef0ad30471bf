"""What was used in a day: entries and their sums are the same number, whenever they are summed up."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from staffstream.domain import Scope
from staffstream.models.prices import Spending
from staffstream.storage import ratios, spending, staff
from staffstream.storage.database import Connection
from staffstream.storage.ratios import TokenRatio
from tests.tools.databases import connect, prepare


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Connection]:
    prepare(tmp_path / "a.db")
    connection = connect(tmp_path / "a.db")
    yield connection
    connection.close()


def _meet(tx: Connection, name: str, user: str) -> Scope:
    return staff.ensure_scope(tx, staff.create_staff(tx, {"name": name}).id, user)


def test_sums_are_the_same_before_and_after_they_are_made(tx: Connection) -> None:
    """By user over all staff members, and by staff member over all users."""
    ada = _meet(tx, "Ada", "kim")
    bo = _meet(tx, "Bo", "kim")
    other = staff.ensure_scope(tx, ada.staff_id, "lee")
    for _ in range(2):
        for scope, tokens in ((ada, 1), (bo, 20), (other, 300)):
            spending.add_spending(tx, scope, Spending(tokens, tokens / 4))
        spent = [spending.load_spending(tx, "user", "kim"), spending.load_spending(tx, "staff", ada.staff_id)]
        assert spending.has_entries(tx)
        spending.sum_up_entries(tx)
        assert not spending.has_entries(tx)
        assert spent == [spending.load_spending(tx, "user", "kim"), spending.load_spending(tx, "staff", ada.staff_id)]
    assert spent == [Spending(42, 10.5), Spending(602, 150.5)]


def test_erasing_a_staff_member_forgives_its_user_nothing(tx: Connection) -> None:
    """What was used and not summed up yet still counts for the user."""
    ada = _meet(tx, "Ada", "kim")
    spending.add_spending(tx, ada, Spending(7, 0.5))
    staff.delete_staff(tx, ada.staff_id)
    spending.sum_up_entries(tx)
    assert spending.load_spending(tx, "user", "kim") == Spending(7, 0.5)
    assert spending.load_spending(tx, "staff", ada.staff_id) == Spending(0, 0.0)


def test_token_ratios_are_a_running_mean(tx: Connection) -> None:
    """Saved at once or one by one."""
    ratios.save_token_ratios(tx, {"one": [1.0, 2.0], "two": [1.5]})
    ratios.save_token_ratios(tx, {"one": [3.0]})
    assert ratios.load_token_ratios(tx) == {"one": TokenRatio(2.0, 3), "two": TokenRatio(1.5, 1)}
