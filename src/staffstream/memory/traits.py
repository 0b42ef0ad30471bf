"""What weighs mildly for or against a memory beside its match with the question: who said it, when, whether it asks or
tells, whether it is still true, how important and how old it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from staffstream.memory.query import Query, is_question, is_standing_instruction, tells_time
from staffstream.storage.memory_search import Candidate

Floats = np.ndarray[Any, np.dtype[np.float32]]

SAID_BY, ASKS, DATED, TELLS_WHEN = 1.4, 0.85, 1.5, 1.2
STANDING = 1.4
NO_LONGER_TRUE = 0.6
AGED, LATEST_AGED = 0.10, 0.50  # age takes at most a tenth, and half when the question asks for the latest
MS_A_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class HalfLives:
    """How soon age weighs half of what it can: in general, and when a question asks for the latest."""

    days: float = 180.0
    latest_days: float = 30.0


USUAL_HALF_LIVES = HalfLives()


def weigh_traits(asked: Query, memories: Sequence[Candidate], staff_name: str) -> Floats:
    """A factor a candidate: who said it, when, does it tell, is it still true, does it matter."""
    factors = np.array([0.95 + 0.1 * each.importance for each in memories], np.float32)
    if asked.people:
        factors[[each.kind == "fact" or each.speaker in asked.people for each in memories]] *= SAID_BY
    factors[[is_question(each.text) for each in memories]] *= ASKS
    factors[[each.speaker != staff_name and is_standing_instruction(each.text) for each in memories]] *= STANDING
    if asked.months or asked.years:
        factors[[_falls_into(asked, each.occurred_at) for each in memories]] *= DATED
    if asked.asks_when:
        factors[[tells_time(each.text) for each in memories]] *= TELLS_WHEN
    factors[[each.valid_to is not None for each in memories]] *= NO_LONGER_TRUE
    return factors


def weigh_age(asked: Query, memories: Sequence[Candidate], half_lives: HalfLives, now: datetime) -> Floats:
    """A factor from 1 for what is new downwards. Being said again makes it new; what is pinned does not age."""
    days, share = (half_lives.latest_days, LATEST_AGED) if asked.asks_latest else (half_lives.days, AGED)
    since = np.array([(each.reinforced_at or each.occurred_at)[:-1] for each in memories], "datetime64[ms]")
    ages = np.maximum(now.timestamp() * 1000 - since.astype(np.int64), 0) / MS_A_DAY
    ages[[bool(each.pinned) for each in memories]] = 0
    factors: Floats = (1 - share + share * 0.5 ** (ages / days)).astype(np.float32)
    return factors


def _falls_into(asked: Query, occurred_at: str) -> bool:
    """Whether it was in a month or year that the question names."""
    year, month = int(occurred_at[:4]), int(occurred_at[5:7])
    return (not asked.years or year in asked.years) and (not asked.months or month in asked.months)
