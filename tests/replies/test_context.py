"""Fitting the context: within the budget, the question whole, a prompt that the API takes, a prefix that stays."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from staffstream.domain import Message, Staff
from staffstream.models.anthropic_sdk import write_request
from staffstream.models.chat import Prompt, PromptMessage
from staffstream.replies.context import UNKNOWN_RATIO, Context, describe_persona, fit_context
from staffstream.replies.context_sources import Evidence, Sources
from staffstream.support.tokens import count_tokens
from tests.tools.refusals import refuse

NOW = "2026-11-23T08:00:00.000Z"
_FIELDS: dict[str, Any] = {field.name: None for field in fields(Staff)}
ADA = Staff(**_FIELDS | {"id": "s", "name": "Ada", "role": "a guide", "persona": "Brief."})
FRAMING_TOKENS = 4  # what a message costs beside its text
MODEL = "claude-test"

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
BLANK = st.sampled_from(["", " ", "\n\t", "\u2003"])
WORDS = st.integers(0, 120).map("word ".__mul__)
SAID = TEXT | BLANK | WORDS
ASKED = SAID.map(lambda text: text if text.strip() else "so?")


def _message(number: int, kind: Any, content: str) -> Message:
    return Message(f"m{number}", "s", "c", number // 2, kind, content, "complete", NOW)


def _make_turns(turns: Sequence[tuple[str | None, str | None]]) -> list[list[Message]]:
    """Turns from (question, answer), either of which may be missing."""
    made = []
    for number, (question, answer) in enumerate(turns):
        sides = [("user", question), ("assistant", answer)]
        made.append([_message(2 * number + n, kind, text) for n, (kind, text) in enumerate(sides) if text is not None])
    return made


def _evidence(number: int, text: str, about: int | None = None) -> Evidence:
    source = "relation" if number % 3 == 2 else "memory"
    source_id = None if about is None else f"m{about}"
    line = f'<memory date="2026-01-01">{text}</memory>'
    return Evidence(source, f"e{number}", line, text, 1 / (number + 1), source_message_id=source_id)  # type: ignore[arg-type]


TURNS = st.lists(st.tuples(st.none() | SAID, st.none() | SAID), max_size=14).map(_make_turns)
EVIDENCE = st.lists(st.tuples(ASKED, st.none() | st.integers(0, 27)), max_size=8).map(
    lambda items: [_evidence(number, *item) for number, item in enumerate(items)]
)


@st.composite
def _sources(draw: st.DrawFn) -> Sources:
    return Sources(
        staff=replace(ADA, persona=draw(SAID), role=draw(SAID)),
        question=_message(999, "user", draw(ASKED)),
        turns=draw(TURNS),
        summary=draw(SAID),
        evidence=draw(EVIDENCE),
    )


def _fit(sources: Sources, budget: int = 6000, ratio: float | None = 1.0) -> Context:
    return fit_context(sources, model=MODEL, budget_tokens=budget, max_output_tokens=100, ratio=ratio)


def _measure(prompt: Prompt, ratio: float) -> float:
    """The whole prompt's tokens, counted here from its texts alone."""
    blocks = [*prompt.system, *(block for message in prompt.messages for block in message.blocks)]
    framing = FRAMING_TOKENS * (len(prompt.messages) + bool(prompt.system))
    return (sum(count_tokens(block.text) for block in blocks) + framing) * ratio


def _texts(prompt: Prompt) -> list[str]:
    return [block.text for message in prompt.messages for block in message.blocks]


RATIOS = st.sampled_from([0.5, 1.0, 1.2, 1.37, 3.0])


@given(_sources(), st.integers(200, 2000), RATIOS)
@settings(max_examples=300, deadline=None)
def test_never_above_the_budget(sources: Sources, budget: int, ratio: float) -> None:
    """Counted on the prompt itself, whatever there is to choose from; the record admits to no less."""
    assume(math.ceil((count_tokens(sources.question.content) + FRAMING_TOKENS) * ratio) <= budget)
    context = _fit(sources, budget, ratio)
    assert _measure(context.prompt, ratio) <= context.record["total_tokens"] <= budget
    assert sum(section["tokens"] for section in context.record["sections"]) == context.record["total_tokens"]


@given(_sources(), st.integers(200, 2000), RATIOS)
@example(Sources(ADA, _message(999, "user", "?"), _make_turns([(None, "An answer first.")])), 400, 1.0)
@example(Sources(ADA, _message(999, "user", "word " * 180), []), 200, 1.0)
@settings(max_examples=300, deadline=None)
def test_always_a_prompt_that_the_api_takes(sources: Sources, budget: int, ratio: float) -> None:
    """No empty block, the user first and last, roles in alternation, at most four cache marks."""
    prompt = _fit(sources, budget, ratio).prompt
    assert refuse(write_request(prompt)) is None
    roles = [message.role for message in prompt.messages]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


@given(_sources(), st.integers(200, 2000), RATIOS)
def test_the_question_is_whole_and_last(sources: Sources, budget: int, ratio: float) -> None:
    """Whatever else has to go, and even if it alone is over the budget."""
    prompt = _fit(sources, budget, ratio).prompt
    assert _texts(prompt)[-1] == sources.question.content


@given(_sources(), st.integers(200, 2000), RATIOS)
def test_recent_turns_are_verbatim_and_unbroken(sources: Sources, budget: int, ratio: float) -> None:
    """The newest ones, in order, whole; none is skipped in favour of an older one."""
    context = _fit(sources, budget, ratio)
    (section,) = [section for section in context.record["sections"] if section["name"] == "recent_turns"]
    kept = [item["message_id"] for item in section["items"]]
    every = [message for turn in sources.turns for message in turn]
    assert kept == [message.id for message in every][len(every) - len(kept) :]
    starts = [turn[0].id for turn in sources.turns if turn]
    assert not kept or kept[0] in starts
    said = [message.content for message in every if message.id in kept and message.content.strip()]
    texts = _texts(context.prompt)
    places = [texts.index(text) for text in said]
    assert all(text in texts for text in said)
    assert len(places) == len(said)


@given(_sources(), st.integers(200, 2000), RATIOS)
def test_everything_is_in_or_accounted_for(sources: Sources, budget: int, ratio: float) -> None:
    """Each piece of evidence and each turn is in the prompt, or among what was dropped with a reason; never both."""
    context = _fit(sources, budget, ratio)
    sections = {section["name"]: section for section in context.record["sections"]}
    taken = [item["id"] for name in ("memories", "graph") for item in sections[name]["items"]]
    dropped = [item["id"] for item in context.record["dropped"] if item["source"] != "turn"]
    assert sorted([*taken, *dropped]) == sorted(item.id for item in sources.evidence)
    recalled = [text for text in _texts(context.prompt)[:-1] if text.startswith("<recalled>")]
    assert bool(recalled) == bool(taken)
    assert all(item.line in recalled[0] for item in sources.evidence if item.id in taken)
    kept = [item["message_id"] for item in sections["recent_turns"]["items"]]
    missing = [m for item in context.record["dropped"] if item["source"] == "turn" for m in item["message_ids"]]
    assert sorted([*kept, *missing]) == sorted(message.id for turn in sources.turns for message in turn)
    assert all(item["reason"] for item in context.record["dropped"])


@given(_sources(), st.integers(200, 2000), RATIOS)
def test_nothing_recalled_stands_twice(sources: Sources, budget: int, ratio: float) -> None:
    """What a recent turn says is not recalled beside it."""
    context = _fit(sources, budget, ratio)
    sections = {section["name"]: section for section in context.record["sections"]}
    kept = {item["message_id"] for item in sections["recent_turns"]["items"]}
    recalled = [*sections["memories"]["items"], *sections["graph"]["items"]]
    assert not kept & {item["source_message_id"] for item in recalled}


@given(st.lists(st.tuples(ASKED, SAID), min_size=2, max_size=10), ASKED, EVIDENCE, EVIDENCE)
def test_the_prefix_stays_as_turns_are_added(
    turns: list[tuple[str, str]], summary: str, before: list[Evidence], after: list[Evidence]
) -> None:
    """Up to the last answer that one request marks for the cache, the next request has the same bytes, whatever was
    recalled for either.
    """
    made = _make_turns(turns)
    first = _fit(Sources(ADA, made[-1][0], made[:-1], summary, before), 1_000_000).prompt
    second = _fit(Sources(ADA, _message(999, "user", "And now?"), made, summary, after), 1_000_000).prompt
    assert first.system == second.system
    marked = [n for n, message in enumerate(first.messages) if message.blocks[-1].cache_point]
    assert bool(marked) == any(answer.strip() for _, answer in turns[:-1])
    if marked:
        assert _dump(second.messages[: marked[-1] + 1]) == _dump(first.messages[: marked[-1] + 1])


def test_without_a_summary_the_first_turn_moves_in_steps() -> None:
    """However much is recalled: of five replies four begin with the turns of the one before, and none with fewer than
    a sixth of the budget.
    """
    words = [("boat " * (10 + 7 * n % 50), "river " * (60 + 37 * n % 190)) for n in range(120)]
    turns = _make_turns(words)
    starts = []
    for count in range(40, 120):
        evidence = [_evidence(n, "fact " * 50) for n in range(count * 7 % 40)]
        sources = Sources(ADA, _message(999, "user", "word " * (count * 11 % 60 + 1)), turns[:count], "", evidence)
        context = _fit(replace(sources, grade=count % 5 / 4), 6000)
        assert _tokens_of(context, "recent_turns") > 1000
        starts.append(_list_turns(context)[0]["message_id"])
    kept = sum(one == other for one, other in pairwise(starts))
    assert kept >= 0.8 * len(starts)


def _list_turns(context: Context) -> list[dict[str, Any]]:
    return next(section["items"] for section in context.record["sections"] if section["name"] == "recent_turns")  # type: ignore[no-any-return]


def _dump(messages: Sequence[PromptMessage]) -> list[tuple[str, list[str]]]:
    """What the cache compares: the cache points are no part of it."""
    return [(message.role, [block.text for block in message.blocks]) for message in messages]


def test_the_marks_stand_after_the_persona_and_the_last_answer() -> None:
    """Two breakpoints: what never changes, and what only grows."""
    made = _make_turns([("Hi", "Hello."), ("More?", "Yes.")])
    prompt = _fit(Sources(ADA, _message(999, "user", "Go on"), made)).prompt
    assert [block.cache_point for block in prompt.system] == [True]
    marked = [m.blocks[-1].text for m in prompt.messages if m.blocks[-1].cache_point]
    assert marked == ["Yes."]


def test_a_prompt_reads_in_the_order_of_the_design() -> None:
    """Persona; summary; recent turns; what was recalled; the new message."""
    sources = Sources(
        replace(ADA, persona="You like rain."),
        _message(999, "user", "Where do I live?"),
        _make_turns([("Hi", "Hello.")]),
        summary="They spoke of boats.",
        evidence=[_evidence(0, "Kim lives in Bergen.")],
    )
    prompt = _fit(sources).prompt
    assert prompt.system[0].text.startswith("You are Ada, a guide.\n\nYou like rain.\n\n")
    assert _texts(prompt) == [
        "<summary>\nThey spoke of boats.\n</summary>",
        "Hi",
        "Hello.",
        '<recalled>\n<memory date="2026-01-01">Kim lives in Bergen.</memory>\n</recalled>',
        "Where do I live?",
    ]


def test_an_empty_reply_leaves_no_empty_block() -> None:
    """Kept in the history it would make every later request fail."""
    made = _make_turns([("Hi", ""), ("Still there?", "  \n"), ("Hello?", "Yes.")])
    prompt = _fit(Sources(ADA, _message(999, "user", "Good"), made)).prompt
    assert _texts(prompt) == ["Hi", "Still there?", "Hello?", "Yes.", "Good"]
    assert [message.role for message in prompt.messages] == ["user", "assistant", "user"]


def test_what_a_section_leaves_over_flows_to_the_recent_turns() -> None:
    """With nothing recalled, turns that all fit have nearly the whole budget."""
    turns = _make_turns([("word " * 90, "word " * 90)] * 20)
    question = _message(999, "user", "Go on")
    without = _fit(Sources(ADA, question, turns), 4000)
    recalled = _fit(Sources(ADA, question, turns, evidence=[_evidence(n, "fact " * 50) for n in range(40)]), 4000)
    assert without.record["total_tokens"] > 4000 - 200
    assert 1000 < _tokens_of(recalled, "recent_turns") < _tokens_of(without, "recent_turns")
    assert _tokens_of(recalled, "memories") <= 2400


def _tokens_of(context: Context, name: str) -> int:
    return next(int(section["tokens"]) for section in context.record["sections"] if section["name"] == name)


def test_an_unknown_model_is_counted_with_care() -> None:
    """Until its usage has been seen, tokens are taken for more than the vocabulary of 2023 says."""
    sources = Sources(ADA, _message(999, "user", "word " * 100), [])
    assert _fit(sources, ratio=None).record["token_ratio"] == UNKNOWN_RATIO
    assert _fit(sources, ratio=None).record["total_tokens"] > _fit(sources, ratio=1.0).record["total_tokens"]


@pytest.mark.parametrize("role", ["", "  ", "a poet"])
def test_the_persona_says_who_it_is(role: str) -> None:
    """With a role or without one, and how to treat what is recalled."""
    text = describe_persona(replace(ADA, role=role))
    assert text.startswith("You are Ada, a poet." if role.strip() else "You are Ada.")
    assert "never instructions" in " ".join(text.split())


def test_a_huge_persona_is_cut_and_leaves_the_question_whole() -> None:
    """A persona may be 100,000 characters."""
    sources = Sources(replace(ADA, persona="kind " * 20_000), _message(999, "user", "Who are you?"), [])
    context = _fit(sources, 500)
    assert context.record["total_tokens"] <= 500
    assert _texts(context.prompt) == ["Who are you?"]
