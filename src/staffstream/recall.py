"""A question → the memories that may answer it, scored, best first. No model call, no I/O beyond one snapshot.

A memory's *match* with the question mixes three views: the rare words they share, the likeness of their vectors, and
for each piece of the question the nearest piece of the memory. An answer often stands beside the turn that matches, in
a talk that touches the question more than once, so a turn's *relevance* counts its neighbours and the best of its talk
too. Who said it, when, and whether it asks rather than tells then weigh mildly. The weights were chosen on five long
conversations and are round: most may move by a third at the cost of less than .006 of recall@10.

Relevance is absolute, so there is a floor: when nothing matches well enough, nothing is relevant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from staffstream.database import Connection, Row
from staffstream.domain import Scope, parse_time
from staffstream.embeddings import load_static_embedder
from staffstream.memories import Memory, MemoryKind, load_memories, load_names, load_traits
from staffstream.memory_index import EmbedNow, find_word, load_vectors
from staffstream.questions import Question, is_question, read_question, tells_time
from staffstream.scope_index import Positions, ScopeIndex, open_index

Floats = np.ndarray[Any, np.dtype[np.float32]]

SEEDS = 50  # the best by words and the best by vectors; their neighbours come on top
NEAREST = 300  # signs are coarse: so many are compared exactly
WORDS, VECTOR, PIECES = 0.30, 0.25, 0.45  # of a match, with the built-in table
WORDS_M, VECTOR_M, PIECES_M = 0.20, 0.40, 0.40  # with an embedder that reads whole texts
BEFORE, AFTER, FURTHER, TALK = 0.30, 0.20, 0.15, 0.50  # what a turn gets of its neighbours' matches, and of its talk's
TALK_TURNS = 3  # whose best turns' mean it is
ALONE = 1.6  # a fact has no neighbours: its own match counts for what they give a turn
SAID_BY, ASKS, DATED, TELLS_WHEN = 1.4, 0.85, 1.5, 1.2
NO_LONGER_TRUE = 0.6
FLOOR_QUESTION, FLOOR_MEMORY = 0.52, 0.30  # the best memory must reach the first for any to be relevant
HALF_LIFE_DAYS, AGED = 180.0, 0.10  # age takes at most a tenth …
LATEST_HALF_LIFE_DAYS, LATEST_AGED = 30.0, 0.50  # … and half when the question asks for the latest
MOST_PIECES = 48  # of a long message, the rarest
PRIOR_TEXTS = 100  # as if so many texts of plain English were in the scope: counts of a few memories mean little


@dataclass(frozen=True, slots=True)
class Recalled:
    """A memory and how well it fits; `relevant` says whether it is above the floor below which nothing is injected."""

    memory: Memory
    score: float
    relevant: bool = True


def recall_memories(
    conn: Connection,
    scope: Scope,
    question: str,
    *,
    embed: EmbedNow | None,
    limit: int,
    kind: MemoryKind | None = None,
    without_message: str | None = None,
    half_life_days: float = HALF_LIFE_DAYS,
    now: datetime | None = None,
) -> list[Recalled]:
    """The best memories for a question, best first, those below the relevance floor included and marked.

    Without `embed` (its far end is down) there are no vectors to compare. `without_message` is the question itself when
    it has been saved already: else it would be found, and lift what stands beside it.
    """
    user_names, staff_name = load_names(conn, scope)
    asked = read_question(question, user_names=user_names, staff_name=staff_name)
    index = open_index(conn, scope)
    candidates = _find_candidates(conn, scope, index, asked, embed, without_message)
    if not len(candidates.positions):
        return []
    relevance = _weigh_surroundings(index, candidates)
    score = relevance * _weigh_traits(asked, candidates.traits)
    score *= _weigh_age(asked, candidates.traits, half_life_days, now or datetime.now(UTC))
    relevant = (relevance >= FLOOR_MEMORY) & (relevance.max() >= FLOOR_QUESTION)
    order = [i for i in np.argsort(-score, kind="stable") if kind is None or candidates.traits[i]["kind"] == kind]
    chosen = {candidates.traits[i]["number"]: i for i in order[:limit]}
    found = load_memories(conn, scope, chosen)
    return [Recalled(found[number], float(score[i]), bool(relevant[i])) for number, i in chosen.items()]


# ── candidates, and how well each matches by itself ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Candidates:
    """`positions` in the index, ascending, with their rows and their matches."""

    positions: Positions
    traits: Sequence[Row]
    match: Floats


def _find_candidates(
    conn: Connection,
    scope: Scope,
    index: ScopeIndex,
    asked: Question,
    embed: EmbedNow | None,
    without_message: str | None,
) -> _Candidates:
    by_words = _match_words(conn, scope, index, asked.words)
    seeds = [np.argsort(-by_words, kind="stable")[:SEEDS]]
    seeds[0] = seeds[0][by_words[seeds[0]] > 0]
    vector = None if embed is None else embed(asked.topic)
    if vector is not None and vector.any():
        nearest = index.find_nearest(vector, limit=NEAREST)
        cosines = load_vectors(conn, index.get_numbers(nearest).tolist(), dimensions=len(vector)) @ vector
        seeds.append(nearest[np.argsort(-cosines, kind="stable")[:SEEDS]])
    steps = [index.step(positions, by) for positions in seeds for by in (-2, -1, 1, 2)]
    positions = np.unique(np.concatenate([*seeds, *steps]))
    positions, traits = _load_living(conn, scope, index, positions[positions >= 0], without_message)
    pieces = _match_pieces(index, asked.topic, positions)
    if vector is None:
        match = (WORDS * by_words[positions] + PIECES * pieces) / (WORDS + PIECES)
    else:
        cosines = load_vectors(conn, [row["number"] for row in traits], dimensions=len(vector)) @ vector
        static = len(vector) == load_static_embedder().dimensions
        words, likeness, nearest_pieces = (WORDS, VECTOR, PIECES) if static else (WORDS_M, VECTOR_M, PIECES_M)
        match = words * by_words[positions] + likeness * cosines + nearest_pieces * pieces
    return _Candidates(positions, traits, match.astype(np.float32))


def _load_living(
    conn: Connection, scope: Scope, index: ScopeIndex, positions: Positions, without_message: str | None
) -> tuple[Positions, list[Row]]:
    """The candidates' rows; the index forgets those that have been deleted since it read them."""
    rows = load_traits(conn, scope, index.get_numbers(positions).tolist())
    gone = np.array([row is None for row in rows], np.bool_)
    index.forget(positions[gone])
    kept = [i for i, row in enumerate(rows) if row is not None and not _comes_from(row, without_message)]
    return positions[kept], [row for i in kept if (row := rows[i]) is not None]


def _comes_from(row: Row, message_id: str | None) -> bool:
    return message_id is not None and row["source_message_id"] == message_id


def _match_words(conn: Connection, scope: Scope, index: ScopeIndex, words: Sequence[str]) -> Floats:
    """For every position the share of the question's words that it has; rare words count more, in short texts too.

    That is BM25 (k1 = 1.2, b = .75) with each word counted once, over the sum of its weights: absolute, where FTS5's
    own rank is relative to all scopes in the file and costs ten times more. A word in more than an eighth of a large
    scope says little and is left out.
    """
    total, found = 0.0, np.zeros(len(index), np.float32)
    most = max(2000, len(index) // 8)
    seen: set[bytes] = set()
    for word in words:
        numbers = find_word(conn, scope, word, most=min(most, 5000))
        if numbers is None:
            continue
        positions = index.locate(np.array(numbers, np.int64))
        if len(positions) and positions.tobytes() in seen:  # another form of a word before it
            continue
        seen.add(positions.tobytes())
        weight = math.log1p((len(index) + PRIOR_TEXTS - len(positions) + 0.5) / (len(positions) + 0.5))
        total += weight
        found[positions] += weight
    matched = np.flatnonzero(found)
    found[matched] *= (
        2.2 / (1 + 1.2 * (0.25 + 0.75 * index.get_lengths(matched) / index.mean_length)) / max(total, 1e-9)
    )
    return found


def _match_pieces(index: ScopeIndex, topic: str, positions: Positions) -> Floats:
    """For each position: how near the question's pieces are to the text's nearest ones, rare pieces counting more."""
    table = load_static_embedder()
    asked = np.unique(table.split(topic))
    asked = asked[table.is_word[asked]]
    lengths = index.get_lengths(positions)
    nearness = np.zeros(len(positions), np.float32)
    filled = np.flatnonzero(lengths)
    if not len(asked) or not len(filled):
        return nearness
    counts = index.count_pieces(asked) + PRIOR_TEXTS * table.commonness[asked]
    weights = np.log1p((len(index) + PRIOR_TEXTS) / (counts + 0.5))
    heaviest = np.argsort(-weights, kind="stable")[:MOST_PIECES]
    asked, weights = asked[heaviest], weights[heaviest].astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(lengths[filled])[:-1]])
    pieces, places = np.unique(np.concatenate(index.get_pieces(positions[filled])), return_inverse=True)
    likeness = np.maximum(table.get_directions(asked) @ table.get_directions(pieces).T - 0.1, 0) / 0.9
    best = np.maximum.reduceat(likeness[:, places], starts, axis=1)
    shorter = 1 / (0.7 + 0.3 * lengths[filled] / index.mean_length)
    nearness[filled] = weights @ best / weights.sum() * shorter
    return nearness


# ── what speaks for a memory beside its own match ────────────────────────────────────────────────────────────────────


def _weigh_surroundings(index: ScopeIndex, candidates: _Candidates) -> Floats:
    """Each candidate's relevance: its match, its neighbours' in the conversation, and its talk's best."""
    positions, match = candidates.positions, candidates.match
    gets = match.copy()
    for by, share in ((-2, FURTHER), (-1, BEFORE), (1, AFTER), (2, FURTHER)):
        neighbours = index.step(positions, by)
        places = np.minimum(np.searchsorted(positions, neighbours), len(positions) - 1)
        gets += np.where(positions[places] == neighbours, share * match[places], 0)
    gets += TALK * _find_best_of_talk(index, candidates)
    return np.where(index.get_threads(positions) == 0, ALONE * match, gets)


def _find_best_of_talk(index: ScopeIndex, candidates: _Candidates) -> Floats:
    """For each candidate the mean of the best matches in its conversation on its day."""
    talks = [
        (thread, row["occurred_at"][:10])
        for thread, row in zip(index.get_threads(candidates.positions).tolist(), candidates.traits, strict=True)
    ]
    matches: dict[tuple[int, str], list[float]] = {}
    for talk, match in zip(talks, candidates.match.tolist(), strict=True):
        matches.setdefault(talk, []).append(match)
    best = {talk: sum(sorted(each)[-TALK_TURNS:]) / TALK_TURNS for talk, each in matches.items()}
    return np.array([best[talk] for talk in talks], np.float32)


def _weigh_traits(asked: Question, traits: Sequence[Row]) -> Floats:
    """A factor a candidate: who said it, when, does it tell, is it still true, does it matter."""
    return np.array([_weigh_row(asked, row) for row in traits], np.float32)


def _weigh_row(asked: Question, row: Row) -> float:
    factor: float = 0.95 + 0.1 * row["importance"]
    if row["speaker"] in asked.people or (row["kind"] == "fact" and asked.people):
        factor *= SAID_BY
    if is_question(row["text"]):
        factor *= ASKS
    if _falls_into(asked, row["occurred_at"]):
        factor *= DATED
    if asked.asks_when and tells_time(row["text"]):
        factor *= TELLS_WHEN
    return factor * (NO_LONGER_TRUE if row["valid_to"] is not None else 1)


def _falls_into(asked: Question, occurred_at: str) -> bool:
    """Whether it was in a month or year that the question names."""
    if not asked.months and not asked.years:
        return False
    year, month = int(occurred_at[:4]), int(occurred_at[5:7])
    return (not asked.years or year in asked.years) and (not asked.months or month in asked.months)


def _weigh_age(asked: Question, traits: Sequence[Row], half_life_days: float, now: datetime) -> Floats:
    """A factor from 1 for what is new downwards. Being said again makes it new; what is pinned does not age."""
    half_life, share = (LATEST_HALF_LIFE_DAYS, LATEST_AGED) if asked.asks_latest else (half_life_days, AGED)
    since = [row["reinforced_at"] or row["occurred_at"] for row in traits]
    ages = np.array([max(0.0, (now - parse_time(moment)).total_seconds() / 86_400) for moment in since])
    ages[[bool(row["pinned"]) for row in traits]] = 0
    factors: Floats = (1 - share + share * 0.5 ** (ages / half_life)).astype(np.float32)
    return factors
