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
from itertools import compress
from operator import itemgetter
from typing import Any

import numpy as np

from staffstream.domain import MemoryKind, Scope
from staffstream.memory.passages import find_passage
from staffstream.memory.query import Query, is_question, read_query
from staffstream.memory.traits import USUAL_HALF_LIVES, HalfLives, weigh_age, weigh_traits
from staffstream.memory.vector_cache import NO_VECTOR, Distances, Positions, ScopeIndex, open_index
from staffstream.models.embeddings.static import Ids, load_static_embedder
from staffstream.storage.conversations import load_names
from staffstream.storage.database import Connection
from staffstream.storage.memory_search import Candidate, load_user_facts
from staffstream.storage.vectors import EmbedNow, holds_vectors_of, write_vector

Floats = np.ndarray[Any, np.dtype[np.float32]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

SEEDS = 32  # the best by words …
NEAREST = 64  # … and by vectors, as far as signs tell; their neighbours come on top
COMPARED = 256  # so many of them are compared piece by piece; Mix says how many are read
NEIGHBOURS = np.array([0.15, 0.30, 0.20, 0.15], np.float32)
TALK = 0.50
TALK_TURNS = 3  # whose best turns' mean it is
ALONE = 1.6  # a fact has no neighbours: its own match counts for what they give a turn
USUAL_COSINE = 0.15  # of unrelated texts, for embedders that spread theirs well
MAX_SAMPLED, SMALL_SCOPE = 2000, 10  # memories
MAX_USER_FACTS = 200  # the most important ones are ordered by age too
MAX_PIECES = 48  # of a long message, the rarest
MAX_HOLDERS = 2500  # a word in more memories than that, or in more than an eighth of the scope, says little
PRIOR_TEXTS = 100  # as if so many texts of plain English were in the scope: counts of a few memories mean little


@dataclass(frozen=True, slots=True)
class Mix:
    """The parts of a match: shared words, likeness of vectors, nearest pieces. They sum to 1.

    `read` is how many candidates are read from the file and weighed exactly. The other three tell how sure it is that
    the question is about something in the scope at all: the best sum of a memory's cosine and `sure_words` times its
    share of the words is nothing at `nothing` and sure at `sure`.
    """

    words: float
    vector: float
    pieces: float
    read: int
    sure_words: float
    nothing: float
    sure: float

    def of(self, words: Floats, cosines: Floats, pieces: Floats) -> Floats:
        mixed: Floats = (self.words * words + self.vector * cosines + self.pieces * pieces).astype(np.float32)
        return mixed

    def grade(self, words: Floats, cosines: Floats | np.float32) -> float:
        """From 0, nothing in the scope is near, to 1, the evidence is sure."""
        best = float((cosines + self.sure_words * words).max(initial=0))
        return min(1.0, max(0.0, (best - self.nothing) / (self.sure - self.nothing)))


STATIC = Mix(0.30, 0.25, 0.45, 128, 0.33, 0.36, 0.66)  # the built-in table, which knows English;
STATIC_OTHER = Mix(0.50, 0.20, 0.30, 128, 1.0, 0.0, 0.50)  # for other languages the words alone tell how sure it is
MODEL = Mix(0.20, 0.40, 0.40, 128, 0.33, 0.30, 0.55)  # an embedder that reads whole texts
OTHER = Mix(0.35, 0.65, 0.0, 128, 0.10, 0.20, 0.42)
WORDS_ALONE = Mix(0.40, 0.0, 0.60, 128, 1.0, 0.2, 0.6)  # no vector of the question


@dataclass(frozen=True, slots=True)
class Recalled:
    """A memory and how well it fits; `relevant` says whether it is above the floor below which nothing is injected."""

    memory: Candidate
    score: float
    grade: float = 1.0
    passage: str = ""

    @property
    def relevant(self) -> bool:
        return self.grade > 0


def recall_memories(
    conn: Connection,
    scope: Scope,
    question: str,
    *,
    embed: EmbedNow | None,
    limit: int,
    kind: MemoryKind | None = None,
    without_message: str | None = None,
    half_lives: HalfLives = USUAL_HALF_LIVES,
    now: datetime | None = None,
) -> list[Recalled]:
    """The best memories for a question, best first, those below the relevance floor included and marked.

    Without `embed` (the embedding provider is down) there are no vectors to compare. `without_message` is the question
    itself when it has been saved already: else it would be found, and lift what stands beside it.
    """
    user_names, staff_name = load_names(conn, scope)
    asked = read_query(question, user_names=user_names, staff_name=staff_name)
    now = now or datetime.now(UTC)
    if asked.asks_about_user and kind != "episode" and (known := _recall_user(conn, scope, asked, half_lives, now)):
        return known[:limit]
    with open_index(conn, scope) as index:
        width = max(limit, COMPARED) if kind or limit > NEAREST else 0  # a reply needs few, of any kind
        found = _find_candidates(conn, scope, index, asked, embed, without_message, width)
    if not found.memories:
        return []
    score = (
        found.relevance
        * weigh_traits(asked, found.memories, staff_name)
        * weigh_age(asked, found.memories, half_lives, now)
    )
    grades = np.full(len(score), found.grade)
    if asked.asks_about_user:  # no fact is known yet, so what the user told stands for them
        told = [each.speaker != staff_name and not is_question(each.text) for each in found.memories]
        grades = np.array(told, np.float64)
    order = np.argsort(-score, kind="stable").tolist()
    best = [i for i in order if kind is None or found.memories[i].kind == kind][:limit]
    return [
        Recalled(
            found.memories[i], float(score[i]), float(grades[i]), find_passage(found.memories[i].text, asked.words)
        )
        for i in best
    ]


def _recall_user(conn: Connection, scope: Scope, asked: Query, half_lives: HalfLives, now: datetime) -> list[Recalled]:
    """What matters most of what is known about the user, for a question that names no topic to compare with."""
    facts = load_user_facts(conn, scope, limit=MAX_USER_FACTS)
    ages = weigh_age(asked, facts, half_lives, now)
    scores = [float((0.5 + 0.5 * fact.importance) * age) for fact, age in zip(facts, ages, strict=True)]
    return sorted(map(Recalled, facts, scores), key=lambda item: (not item.memory.pinned, -item.score))


# ── candidates, and how well each matches ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Found:
    """The candidates. `relevance` ranks; `grade` says how sure it is that the question is about any of them."""

    memories: Sequence[Candidate]
    relevance: Floats
    grade: float


def _find_candidates(
    conn: Connection,
    scope: Scope,
    index: ScopeIndex,
    asked: Query,
    embed: EmbedNow | None,
    without_message: str | None,
    width: int,
) -> _Found:
    """In steps, each for fewer: what is in memory tells which candidates to read from the file, and these are compared
    exactly. At least `width` are gone on with in each, where there are so many.
    """
    words, matched = _match_words(conn, scope, index, asked)
    vector = None if embed is None else embed(asked.topic)
    distances = None if vector is None else index.measure_distances(vector)
    mix = _choose_mix(conn, asked, with_vectors=distances is not None)
    unrelated = _find_unrelated(distances, vector)
    positions = _gather(index, words, matched, distances, width)
    turns = _Neighbours(index, positions)
    words = words[positions]
    cosines = _scale_cosines(_estimate_cosines(distances, positions, vector), unrelated)
    pieces = np.zeros_like(words)
    chosen = turns.choose(np.arange(len(positions)), mix.of(words, cosines, pieces), max(COMPARED, width))
    pieces[chosen] = _match_pieces(index, asked.topic, positions[chosen])
    chosen = turns.choose(chosen, mix.of(words, cosines, pieces), max(mix.read, width))
    memories, here = _load_those_here(
        conn, scope, index, positions[chosen], None if vector is None or distances is None else write_vector(vector)
    )
    chosen = chosen[here]
    cosines = _scale_cosines(np.array([each.likeness for each in memories], np.float32), unrelated)
    match = mix.of(words[chosen], cosines, pieces[chosen])
    if without_message is not None:
        itself = np.array([each.source_message_id == without_message for each in memories], np.bool_)
        match[itself] = 0
        turns.leave_out(chosen[itself])
    relevance = turns.lift(chosen, match)
    relevance += TALK * _find_best_of_talk(index.get_threads(positions[chosen]), match, memories)
    matching = match > 0
    usual = max(0.0, unrelated - USUAL_COSINE)  # what this embedder gives to texts about something else
    likeness = _scale_cosines(np.array([each.likeness for each in memories], np.float32), usual)
    grade = mix.grade(words[chosen][matching], likeness[matching] if mix is not STATIC_OTHER else np.float32(0))
    return _Found(list(compress(memories, matching)), relevance[matching], grade)


def _estimate_cosines(distances: Distances | None, positions: Positions, vector: Floats | None) -> Floats:
    """As far as signs tell: the share of them that differs is the angle's share of a half turn."""
    if distances is None or vector is None:
        return np.zeros(len(positions), np.float32)
    estimated: Floats = np.cos(np.pi / len(vector) * distances[positions]).astype(np.float32)
    return estimated


def _find_unrelated(distances: Distances | None, vector: Floats | None) -> float:
    """The cosine that a memory has which is about something else: 0 for some embedders, 0.7 for others.

    Most of a scope has nothing to do with a question, so it is that of the middle memory; in a small scope, of which
    that is not so, it counts for less.
    """
    if distances is None or vector is None:
        return 0.0
    sample = distances[:: len(distances) // MAX_SAMPLED + 1]
    sample = sample[sample < NO_VECTOR]
    if not len(sample):
        return 0.0
    middle = math.cos(math.pi / len(vector) * float(np.partition(sample, len(sample) // 2)[len(sample) // 2]))
    return max(0.0, middle) * len(sample) / (len(sample) + SMALL_SCOPE)


def _scale_cosines(cosines: Floats, unrelated: float) -> Floats:
    """Cosines from 0 for what is unrelated to 1."""
    scaled: Floats = np.maximum((cosines - unrelated) / (1 - unrelated), 0).astype(np.float32)
    return scaled


def _load_those_here(
    conn: Connection, scope: Scope, index: ScopeIndex, positions: Positions, vector: bytes | None
) -> tuple[list[Candidate], Flags]:
    """Those of the memories at some positions that are in the snapshot, and which they are."""
    numbers = index.get_numbers(positions).tolist()
    memories = conn.search.load_candidates(conn, scope, numbers, vector)
    known = {each.number for each in memories}
    here = np.array([number in known for number in numbers], np.bool_)
    if len(memories) < len(numbers):
        index.forget(positions[~here])
    return memories, here


def _choose_mix(conn: Connection, asked: Query, *, with_vectors: bool) -> Mix:
    if not with_vectors:
        return WORDS_ALONE
    table = load_static_embedder()
    if holds_vectors_of(conn, table.name, table.dimensions):
        return STATIC if asked.is_english else STATIC_OTHER
    return MODEL if asked.is_english else OTHER


def _gather(index: ScopeIndex, words: Floats, matched: Positions, distances: Distances | None, width: int) -> Positions:
    """The positions of the best by words and of the nearest, and of their neighbours, ascending."""
    seeds = matched[_find_smallest(-words[matched], max(SEEDS, width))]
    if distances is not None:
        nearest = _find_smallest(distances, max(NEAREST, width))
        seeds = np.concatenate([seeds, nearest[distances[nearest] < NO_VECTOR]])
    positions = _sort(np.concatenate([seeds, index.look_around(seeds).ravel()]))
    return positions[np.searchsorted(positions, 0) :]  # without −1


def _sort(positions: Positions) -> Positions:
    """Ascending, each once. For a few hundred numbers a fifth of what numpy.unique takes."""
    positions = np.sort(positions)
    return positions[np.append(True, positions[1:] != positions[:-1])] if len(positions) else positions


def _find_smallest(values: np.ndarray[Any, Any], count: int) -> Positions:
    """Where the smallest are, of equal ones the first. Ten times faster than numpy.argpartition, whose sort of indices
    uses no vector instructions.
    """
    if len(values) <= count:
        return np.arange(len(values))
    largest = np.partition(values, count - 1)[count - 1]
    smaller, equal = np.flatnonzero(values < largest), np.flatnonzero(values == largest)
    return np.concatenate([smaller, equal[: count - len(smaller)]])


def _match_words(conn: Connection, scope: Scope, index: ScopeIndex, asked: Query) -> tuple[Floats, Positions]:
    """For every position the share of the question's words that it has, and which have any; rare words count more, in
    short texts too.

    That is BM25 (k1 = 1.2, b = .75) with each word counted once, over the sum of its weights: absolute, where FTS5's
    own rank is relative to all scopes in the file and costs ten times more.
    """
    total, shares = 0.0, np.zeros(len(index), np.float32)
    most = max(500, min(len(index) // 8, MAX_HOLDERS))
    seen: dict[bytes, Positions] = {}
    holding = conn.search.find_words(conn, scope, [word for word in asked.words if word not in asked.codes], most=most)
    if asked.codes:
        holding += filter(len, conn.search.find_words(conn, scope, sorted(asked.codes), most=most))
    for holders in index.locate_all(holding):
        if len(holders) and seen.setdefault(holders.tobytes(), holders) is not holders:
            continue  # another form of a word before it
        weight = math.log1p((len(index) + PRIOR_TEXTS - len(holders) + 0.5) / (len(holders) + 0.5))
        total += weight
        shares[holders] += weight
    matched = _sort(np.concatenate([np.zeros(0, np.int64), *seen.values()]))
    shorter = 2.2 / (1 + 1.2 * (0.25 + 0.75 * index.get_lengths(matched) / index.mean_length))
    shares[matched] *= shorter / max(total, 1e-9)
    return shares, matched


def _match_pieces(index: ScopeIndex, topic: str, positions: Positions) -> Floats:
    """For each position: how near the question's pieces are to the text's nearest ones, rare pieces counting more."""
    asked, weights = _weigh_pieces(index, topic)
    lengths = index.get_lengths(positions)
    nearness = np.zeros(len(positions), np.float32)
    filled = np.flatnonzero(lengths)
    if not len(asked) or not len(filled):
        return nearness
    starts = np.cumsum(lengths[filled]) - lengths[filled]
    likeness = load_static_embedder().compare_pieces(asked, index.get_pieces(positions[filled]))
    best = np.maximum(np.maximum.reduceat(likeness, starts, axis=1) - 0.1, 0) / 0.9
    shorter = 1 / (0.7 + 0.3 * lengths[filled] / index.mean_length)
    nearness[filled] = weights @ best * shorter
    return nearness


def _weigh_pieces(index: ScopeIndex, topic: str) -> tuple[Ids, Floats]:
    """The question's pieces, and what share of it each is by its rarity in the scope."""
    table = load_static_embedder()
    asked = np.unique(table.split(topic))
    asked = asked[table.is_word[asked]]
    counts = index.count_pieces(asked) + PRIOR_TEXTS * table.commonness[asked]
    weights = np.log1p((len(index) + PRIOR_TEXTS) / (counts + 0.5))
    rarest = np.argsort(-weights, kind="stable")[:MAX_PIECES]
    return asked[rarest], (weights[rarest] / max(weights[rarest].sum(), 1e-9)).astype(np.float32)


# ── what speaks for a memory beside its own match ────────────────────────────────────────────────────────────────────


class _Neighbours:
    """Which candidates stand beside which in a conversation. Items below are places among `positions`, ascending."""

    def __init__(self, index: ScopeIndex, positions: Positions) -> None:
        around = index.look_around(positions)
        self._places = np.minimum(np.searchsorted(positions, around), len(positions) - 1)
        self._shares = np.where(positions[self._places] == around, NEIGHBOURS[:, None], np.float32(0))
        missing = (NEIGHBOURS[:, None] * (around < 0)).sum(axis=0).astype(np.float32)
        self._own = np.where(index.get_threads(positions) == 0, np.float32(ALONE), 1 + missing)

    def leave_out(self, items: Positions) -> None:
        """Count these as missing: the question is no neighbour, saved already or not."""
        beside = np.isin(self._places, items) & (self._shares > 0)
        self._own += (NEIGHBOURS[:, None] * beside).sum(axis=0)
        self._shares[beside] = 0

    def lift(self, items: Positions, match: Floats) -> Floats:
        """Each match with its share of its neighbours'; outside any conversation it stands for both."""
        matches = np.zeros(len(self._own), np.float32)
        matches[items] = match
        around = (self._shares * matches[self._places]).sum(axis=0)
        lifted: Floats = (self._own * matches + around)[items]
        return lifted

    def choose(self, items: Positions, match: Floats, count: int) -> Positions:
        """The items that are best with what their neighbours add."""
        if len(items) <= count:
            return items
        return items[np.sort(np.argsort(-self.lift(items, match[items]), kind="stable")[:count])]


def _find_best_of_talk(threads: Positions, match: Floats, memories: Sequence[Candidate]) -> Floats:
    """For each candidate the mean of the best matches in its conversation on its day; nothing outside any."""
    talks = [(thread, each.occurred_at[:10]) for thread, each in zip(threads.tolist(), memories, strict=True)]
    best: dict[tuple[int, str], list[float]] = {}
    for talk, value in sorted(zip(talks, match.tolist(), strict=True), key=itemgetter(1), reverse=True):
        best.setdefault(talk, []).append(value)
    means = {
        talk: sum(values[:TALK_TURNS]) / min(TALK_TURNS, len(values)) if talk[0] else 0.0
        for talk, values in best.items()
    }
    return np.array([means[talk] for talk in talks], np.float32)
