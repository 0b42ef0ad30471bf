"""What the scripted provider refuses, as the Messages API does, and that what the API takes is let through."""

from typing import Any

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.refusals import refuse

Json = dict[str, Any]


def _ask(said: str) -> Json:
    return {"model": "claude-test", "max_tokens": 200, "messages": [{"role": "user", "content": said}]}


def _schema(**given: Any) -> Json:
    return {"output_config": {"format": {"type": "json_schema", "schema": given}}}


def _object(**properties: Any) -> Json:
    return {"type": "object", "properties": properties, "additionalProperties": False}


MARK = {"cache_control": {"type": "ephemeral"}}
TEXT = {"type": "text", "text": "x"}
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "additionalProperties": False}
REFUSED: dict[str, Json] = {
    "temperature": {"temperature": 1},
    "top_p": {"top_p": 0.9},
    "top_k": {"top_k": 5},
    "unknown field": {"prompt": "x"},
    "no model": {"model": None},
    "empty model": {"model": ""},
    "max_tokens as text": {"max_tokens": "5"},
    "max_tokens as truth": {"max_tokens": True},
    "negative max_tokens": {"max_tokens": -1},
    "messages not a list": {"messages": {"role": "user", "content": "x"}},
    "no messages": {"messages": []},
    "message not an object": {"messages": ["x"]},
    "unknown role": {"messages": [{"role": "bot", "content": "x"}]},
    "role not a text": {"messages": [{"role": ["user"], "content": "x"}]},
    "extra field in a message": {"messages": [{"role": "user", "content": "x", "name": "Anna"}]},
    "no content": {"messages": [{"role": "user"}]},
    "null content": {"messages": [{"role": "user", "content": None}]},
    "empty content": {"messages": [{"role": "user", "content": []}]},
    "empty text": {"messages": [{"role": "user", "content": ""}]},
    "blank text": {"messages": [{"role": "user", "content": " \n\t"}]},
    "blank block": {"messages": [{"role": "user", "content": [TEXT, {"type": "text", "text": " "}]}]},
    "blank old reply": {
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "y"},
        ]
    },
    "blank system block": {"system": [{"type": "text", "text": ""}]},
    "cache mark on a blank block": {"system": [{"type": "text", "text": "", **MARK}]},
    "null text": {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
    "block not an object": {"messages": [{"role": "user", "content": ["x"]}]},
    "unknown block": {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
    "extra field in a block": {"messages": [{"role": "user", "content": [{**TEXT, "id": 1}]}]},
    "image in the system": {"system": [{"type": "image", "source": {}}]},
    "five cache marks": {
        "system": [{**TEXT, **MARK}] * 2,
        "messages": [{"role": "user", "content": [{**TEXT, **MARK}] * 3}],
    },
    "five with the top-level one": {
        "messages": [{"role": "user", "content": [{**TEXT, **MARK}] * 4}],
        **MARK,
    },
    "unknown cache mark": {"system": [{**TEXT, "cache_control": {"type": "eternal"}}]},
    "unknown ttl": {"system": [{**TEXT, "cache_control": {"type": "ephemeral", "ttl": "9d"}}]},
    "first is the assistant's": {"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]},
    "last is the assistant's": {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
    "lone surrogate": {"messages": [{"role": "user", "content": "a\ud800b"}]},
    "blank stop sequence": {"stop_sequences": [" "]},
    "stream as text": {"stream": "yes"},
    "unknown effort": {"output_config": {"effort": "heroic"}},
    "unknown format": {"output_config": {"format": {"type": "xml"}}},
    "format without schema": {"output_config": {"format": {"type": "json_schema"}}},
    "small thinking budget": {"thinking": {"type": "enabled", "budget_tokens": 10}},
    "thinking above max_tokens": {"thinking": {"type": "enabled", "budget_tokens": 2_000}},
    "metadata with names": {"metadata": {"name": "Anna"}},
    "object left open": _schema(type="object", properties={}),
    "free-form object": _schema(type="object", additionalProperties=True),
    "open object inside": _schema(**_object(a={"type": "array", "items": {"type": "object"}})),
    "numeric limit": _schema(**_object(a={"type": "integer", "minimum": 1})),
    "length limit": _schema(**_object(a={"type": "string", "maxLength": 9})),
    "array limit": _schema(**_object(a={"type": "array", "maxItems": 9, "items": {"type": "string"}})),
    "minItems above 1": _schema(**_object(a={"type": "array", "minItems": 2, "items": {"type": "string"}})),
    "recursion": _schema(**_object(a={"$ref": "#/$defs/node"}), **{"$defs": {"node": NODE}}),
    "unknown reference": _schema(**_object(a={"$ref": "https://example.com/x"})),
    "no type": _schema(**_object(a={"description": "anything"})),
    "oneOf": _schema(**_object(a={"oneOf": [{"type": "string"}]})),
    "unknown string format": _schema(**_object(a={"type": "string", "format": "phone"})),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    """Each of these the API answers with 400."""
    refusal = refuse({**_ask("Hi"), **REFUSED[name]})
    assert refusal is not None
    status, error_type, message = refusal
    assert (status, error_type) == (400, "invalid_request_error")
    assert message


@pytest.mark.parametrize("field", ["model", "max_tokens", "messages"])
def test_refuses_what_lacks_a_field(field: str) -> None:
    """The three required fields are required."""
    body = {name: value for name, value in _ask("Hi").items() if name != field}
    assert refuse(body) == (400, "invalid_request_error", f"{field}: Field required")


ACCEPTED: dict[str, Json] = {
    "system as text": {"system": "You are Ada."},
    "four cache marks": {
        "system": [{**TEXT, **MARK}] * 2,
        "messages": [{"role": "user", "content": [{**TEXT, **MARK}, {**TEXT, **MARK}, TEXT]}],
    },
    "two of the user's in a row": {"messages": [{"role": "user", "content": "x"}] * 2},
    "content as text": {"messages": [{"role": "user", "content": "x"}]},
    "every option": {
        "stop_sequences": ["###"],
        "metadata": {"user_id": "u1"},
        "service_tier": "auto",
        "thinking": {"type": "disabled"},
        "stream": True,
        **MARK,
    },
    "a schema with a shared part": _schema(
        **_object(a={"$ref": "#/$defs/part"}, b={"type": "array", "items": {"$ref": "#/$defs/part"}}),
        **{"$defs": {"part": _object(kind={"enum": ["x", "y"]}, day={"type": "string", "format": "date"})}},
    ),
    "alternatives": _schema(**_object(a={"anyOf": [{"type": "string"}, {"type": "null"}]})),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_takes(name: str) -> None:
    """What the API takes is let through."""
    assert refuse({**_ask("Hi"), **ACCEPTED[name]}) is None


def test_takes_what_the_sdk_makes_of_a_schema() -> None:
    """A schema that the API would refuse passes once `transform_schema` has been over it."""
    rough = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    assert refuse({**_ask("Hi"), **_schema(**rough)}) is not None
    assert refuse({**_ask("Hi"), **_schema(**anthropic.transform_schema(rough))}) is None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FIELDS = [*_ask("Hi"), "system", "output_config", "thinking", "tools", "metadata", "stop_sequences"]


@given(JSON_VALUES, st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES))
def test_no_body_is_too_strange_to_refuse(body: Any, fields: Json) -> None:
    """Any JSON gets a verdict, never an exception."""
    assert refuse(body) is not None
    refuse({**_ask("Hi"), **fields})


SCHEMA_VALUES = st.recursive(
    st.sampled_from(["object", "array", "string", 1, None, False, "#/$defs/a"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "anyOf", "allOf", "enum", "$ref", "$defs", "required", "a"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(SCHEMA_VALUES)
def test_no_schema_is_too_strange(schema: Any) -> None:
    """Any schema gets a verdict, never an exception."""
    refuse({**_ask("Hi"), "output_config": {"format": {"type": "json_schema", "schema": schema}}})
