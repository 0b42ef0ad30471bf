"""What is found in real talk: evidence recall@10 over long conversations, ours beside a Chroma collection.

For each question of LoCoMo's categories 1 to 4: the share of the turns that hold its answer among the ten found. The
data (locomo10.json of github.com/snap-research/LoCoMo) is no part of the project: `--locomo FILE` names it. Each
session is imported into ours as a past conversation, and questions go to `GET …/memories?query=`; Chroma gets the same
turns as documents.
"""

import asyncio
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bench import clients, processes
from bench.figures import Figure, can_measure
from bench.peers import chroma
from staffstream.domain import format_time

FOUND = 10
CATEGORIES = (1, 2, 3, 4)  # 5 has no answer


@dataclass(frozen=True)
class Turn:
    """One message of a talk."""

    id: str
    speaker: str
    text: str
    said_at: datetime


@dataclass(frozen=True)
class Talk:
    """A conversation in sessions, and questions, each with the ids of the turns that hold its answer."""

    speakers: tuple[str, str]
    sessions: Sequence[Sequence[Turn]]
    questions: Sequence[tuple[str, frozenset[str]]]

    @property
    def turns(self) -> list[Turn]:
        return [turn for session in self.sessions for turn in session]


async def measure_recall(file: Path) -> list[Figure]:
    """Ours with both embedders that need no provider, and Chroma with two ways to write a document."""
    talks = await asyncio.to_thread(read_talks, file)
    title = f"R@{FOUND} over {sum(len(talk.questions) for talk in talks)} questions"
    figures = []
    for embedder, needs in (("static", ()), ("minilm", chroma.MINILM)):
        if can_measure(name := f"{title}, ours with {embedder}", needs):
            figures.append(Figure(name, await asyncio.to_thread(_score_ours, talks, embedder), ""))
    for writing, with_speaker in (("text", False), ("speaker and text", True)):
        if can_measure(name := f"{title}, Chroma with MiniLM, documents of {writing}", chroma.NEEDS):
            figures.append(Figure(name, await _score_chroma(talks, with_speaker), ""))
    return figures


# ── the data ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_talks(file: Path) -> list[Talk]:
    """The conversations of a file in LoCoMo's format."""
    return [_read_talk(entry) for entry in json.loads(file.read_text("utf-8"))]


def _read_talk(entry: Mapping[str, Any]) -> Talk:
    said = entry["conversation"]
    numbers = sorted(int(name[8:]) for name in said if re.fullmatch(r"session_\d+", name) and said[name])
    sessions = [_read_session(said[f"session_{n}"], said[f"session_{n}_date_time"]) for n in numbers]
    known = {turn.id for session in sessions for turn in session}
    questions = [
        (item["question"], evidence)
        for item in entry["qa"]
        if item["category"] in CATEGORIES and (evidence := _read_evidence(item) & known)
    ]
    return Talk((said["speaker_a"], said["speaker_b"]), sessions, questions)


def _read_session(turns: Sequence[Mapping[str, Any]], began: str) -> list[Turn]:
    start = datetime.strptime(" ".join(began.replace(",", " ").split()), "%I:%M %p on %d %B %Y").replace(tzinfo=UTC)
    return [
        Turn(turn["dia_id"], turn["speaker"], _write_text(turn), start + timedelta(seconds=20 * n))
        for n, turn in enumerate(turns)
    ]


def _write_text(turn: Mapping[str, Any]) -> str:
    """What was said; a photo that was sent with it stands as its caption."""
    caption = (turn.get("blip_caption") or "").strip()
    return turn["text"].strip() + (f" [photo: {caption}]" if caption else "")


def _read_evidence(item: Mapping[str, Any]) -> frozenset[str]:
    """The ids named as evidence; the file writes some of them as D:8:06 or several in one string."""
    pairs = re.findall(r"D:?(\d+):(\d+)", " ".join(item.get("evidence", [])))
    return frozenset(f"D{int(session)}:{int(turn)}" for session, turn in pairs)


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def score(questions: Sequence[tuple[str, frozenset[str]]], found: Sequence[Sequence[str]]) -> list[float]:
    """For each question the share of its evidence among what was found."""
    return [
        len(evidence.intersection(ids)) / len(evidence) for (_, evidence), ids in zip(questions, found, strict=True)
    ]


def _score_ours(talks: Sequence[Talk], embedder: str) -> float:
    with processes.run_ours(None, "--embedder", embedder, "--requests-per-minute", "0") as server:
        return statistics.fmean(share for talk in talks for share in _ask_ours(server.port, talk))


def _ask_ours(port: int, talk: Talk) -> list[float]:
    """The user is the first speaker, the staff member the second."""
    user, name = talk.speakers
    member = clients.call(port, "POST", "/staff", {"name": name})["id"]
    turn_of: dict[str, str] = {}
    for session in talk.sessions:
        messages = [
            {
                "message_type": "user" if turn.speaker == user else "assistant",
                "content": turn.text,
                "created_at": format_time(turn.said_at),
            }
            for turn in session
        ]
        past = {"user_name": user, "messages": messages}
        made = clients.call(port, "POST", f"/staff/{member}/conversations", past)
        turn_of |= zip(made["message_ids"], (turn.id for turn in session), strict=True)
    found = []
    for question, _ in talk.questions:
        query = urlencode({"query": question, "limit": FOUND})
        memories = clients.call(port, "GET", f"/staff/{member}/memories?{query}")
        found.append([turn_of[memory["source_message_id"]] for memory in memories])
    return score(talk.questions, found)


async def _score_chroma(talks: Sequence[Talk], with_speaker: bool) -> float:
    shares: list[float] = []
    for talk in talks:
        texts = [f"{turn.speaker}: {turn.text}" if with_speaker else turn.text for turn in talk.turns]
        with processes.make_folder() as folder:
            answer = await chroma.ask(folder, texts, [question for question, _ in talk.questions], limit=FOUND)
        assert answer is not None
        shares += score(talk.questions, [[talk.turns[n].id for n in places] for places in answer.found])
    return statistics.fmean(shares)
