"""What the Messages API refuses with 400, so that a prompt it would not take fails here too, where there is
no key to try it with. The rules are those of the SDK's types and of what users of the API report; where they
leave room, this is the stricter reading.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

FIELDS = frozenset(
    {
        *("cache_control", "container", "diagnostics", "inference_geo", "max_tokens", "messages", "metadata"),
        *(
            "model",
            "output_config",
            "service_tier",
            "speed",
            "stop_sequences",
            "stream",
            "system",
            "thinking",
        ),
        *("tool_choice", "tools"),
    }
)
BLOCK_TYPES = frozenset(
    {
        *("text", "image", "document", "search_result", "thinking", "redacted_thinking", "container_upload"),
        *("tool_use", "tool_result", "server_tool_use", "web_search_tool_result", "web_fetch_tool_result"),
        *("code_execution_tool_result", "bash_code_execution_tool_result"),
        *("text_editor_code_execution_tool_result", "tool_search_tool_result"),
    }
)
SCHEMA_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
SCHEMA_LIMITS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"),
    *("maxItems", "uniqueItems", "minProperties", "maxProperties", "patternProperties", "propertyNames"),
    *("contains", "prefixItems", "oneOf", "not", "if"),
)
STRING_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
MAX_CACHE_MARKS = 4
MAX_SCHEMA_DEPTH = 32


class _Refused(Exception):
    """The API's own words for what is wrong."""


def refuse(body: Any) -> tuple[int, str, str] | None:
    """Status, error type and message of the API's refusal of a parsed body; None if it would take it."""
    try:
        _check_body(body)
    except _Refused as refusal:
        return 400, "invalid_request_error", str(refusal)
    return None


def _check_body(body: Any) -> None:
    _require(isinstance(body, dict), "body: Input should be an object")
    _check_text(body)
    for field in body:
        _require(field in FIELDS, f"{field}: Extra inputs are not permitted")
    for field in ("model", "max_tokens", "messages"):
        _require(field in body, f"{field}: Field required")
    _require(isinstance(body["model"], str) and bool(body["model"]), "model: Input should be a valid string")
    _require(_is_whole(body["max_tokens"]), "max_tokens: Input should be a valid integer")
    _require(body["max_tokens"] >= 0, "max_tokens: Input should be greater than or equal to 0")
    _check_messages(body["messages"])
    if "system" in body:
        _check_content(body["system"], "system", frozenset({"text"}))
    _check_cache_marks(body)
    _check_options(body)
    _check_output_config(body.get("output_config", {}))


def _check_text(body: Json) -> None:
    """A lone surrogate escape is refused as bad JSON wherever it stands."""
    stack: list[Any] = [body]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += [*value, *value.values()]
        elif isinstance(value, list):
            stack += value
        elif isinstance(value, str):
            clean = value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
            _require(clean, "The request body is not valid JSON: no low surrogate in string")


def _check_messages(messages: Any) -> None:
    _require(isinstance(messages, list), "messages: Input should be a valid list")
    _require(bool(messages), "messages: at least one message is required")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        _require(isinstance(message, dict), f"{where}: Input should be an object")
        for field in message:
            _require(field in ("role", "content"), f"{where}.{field}: Extra inputs are not permitted")
        role = message.get("role")
        _require(role in ("user", "assistant", "system"), f"{where}.role: Input should be 'user' or 'assistant'")
        _require("content" in message, f"{where}.content: Field required")
        _check_content(message["content"], where, BLOCK_TYPES)
    _require(messages[0]["role"] == "user", 'messages: first message must use the "user" role')
    _require(
        messages[-1]["role"] != "assistant",
        "This model does not support assistant message prefill. The conversation must end with a user message.",
    )


def _check_content(content: Any, where: str, block_types: frozenset[str]) -> None:
    if isinstance(content, str):
        _require(bool(content.strip()), f"{where}: text content blocks must contain non-whitespace text")
        return
    _require(isinstance(content, list), f"{where}.content: Input should be a valid string or list")
    _require(bool(content), f"{where}: all messages must have non-empty content")
    for index, block in enumerate(content):
        _check_block(block, f"{where}.content.{index}", block_types)


def _check_block(block: Any, where: str, block_types: frozenset[str]) -> None:
    _require(isinstance(block, dict), f"{where}: Input should be an object")
    kind = block.get("type")
    _require(
        isinstance(kind, str) and kind in block_types,
        f"{where}: Input tag {kind!r} does not match any expected tag",
    )
    if "cache_control" in block:
        _check_cache_mark(block["cache_control"], where)
    if kind != "text":
        return
    for field in block:
        _require(
            field in ("type", "text", "cache_control", "citations"),
            f"{where}.{field}: Extra inputs are not permitted",
        )
    text = block.get("text")
    _require(isinstance(text, str), f"{where}.text.text: Input should be a valid string")
    if not text.strip():
        _require(not block.get("cache_control"), f"{where}: cache_control cannot be set for empty text blocks")
        raise _Refused(f"{where}: text content blocks must contain non-whitespace text")


def _check_cache_mark(mark: Any, where: str) -> None:
    if mark is None:
        return
    _require(
        isinstance(mark, dict) and mark.get("type") == "ephemeral",
        f"{where}.cache_control: Input should be ephemeral",
    )
    known = set(mark) <= {"type", "ttl"} and mark.get("ttl", "5m") in ("5m", "1h")
    _require(known, f"{where}.cache_control.ephemeral: Input should have a ttl of '5m' or '1h' and nothing else")


def _check_cache_marks(body: Json) -> None:
    _check_cache_mark(body.get("cache_control"), "body")
    marks = sum(1 for block in _list_blocks(body) if block.get("cache_control"))
    marks += bool(body.get("cache_control"))
    _require(
        marks <= MAX_CACHE_MARKS,
        f"A maximum of {MAX_CACHE_MARKS} blocks with cache_control may be provided. Found {marks}.",
    )


def _list_blocks(body: Json) -> Iterator[Json]:
    """What can carry a cache mark: tools, system blocks, message blocks, and the blocks of tool results."""
    parts = [body.get("tools"), body.get("system"), *(message["content"] for message in body["messages"])]
    for part in parts:
        for block in part if isinstance(part, list) else ():
            yield block
            nested = block.get("content")
            yield from (inner for inner in (nested if isinstance(nested, list) else ()) if isinstance(inner, dict))


def _check_options(body: Json) -> None:
    stops = body.get("stop_sequences", [])
    _require(isinstance(stops, list), "stop_sequences: Input should be a valid list")
    for stop in stops:
        _require(isinstance(stop, str) and bool(stop.strip()), "stop_sequences: each must contain non-whitespace")
    _require(isinstance(body.get("stream", False), bool), "stream: Input should be a valid boolean")
    _require(
        body.get("service_tier", "auto") in ("auto", "standard_only"),
        "service_tier: Input should be 'auto' or 'standard_only'",
    )
    metadata = body.get("metadata", {})
    _require(
        isinstance(metadata, dict) and set(metadata) <= {"user_id"},
        "metadata: Extra inputs are not permitted",
    )
    _require(isinstance(metadata.get("user_id"), str | None), "metadata.user_id: Input should be a valid string")
    tools = body.get("tools", [])
    listed = isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)
    _require(listed, "tools: Input should be a valid list of objects")
    _require(isinstance(body.get("tool_choice", {}), dict), "tool_choice: Input should be an object")
    _check_thinking(body.get("thinking", {"type": "disabled"}), body["max_tokens"])


def _check_thinking(thinking: Any, max_tokens: int) -> None:
    kinds = ("enabled", "adaptive", "disabled", "between_tools")
    _require(
        isinstance(thinking, dict) and thinking.get("type") in kinds,
        f"thinking: Input should be one of {kinds}",
    )
    if thinking["type"] == "enabled":
        budget = thinking.get("budget_tokens")
        _require(
            _is_whole(budget) and budget >= 1024,
            "thinking.enabled.budget_tokens: Input should be at least 1024",
        )
        _require(budget < max_tokens, "`max_tokens` must be greater than `thinking.budget_tokens`")


def _check_output_config(config: Any) -> None:
    _require(isinstance(config, dict), "output_config: Input should be an object")
    _require(set(config) <= {"effort", "format"}, "output_config: Extra inputs are not permitted")
    efforts = (None, "low", "medium", "high", "xhigh", "max")
    _require(config.get("effort") in efforts, f"output_config.effort: Input should be one of {efforts[1:]}")
    shape = config.get("format")
    if shape is None:
        return
    _require(
        isinstance(shape, dict) and shape.get("type") == "json_schema",
        "output_config.format: Input tag should be 'json_schema'",
    )
    _require(
        set(shape) == {"type", "schema"},
        "output_config.format: a 'schema' is required, and nothing else permitted",
    )
    _check_schema(shape["schema"], shape["schema"], ())


def _check_schema(schema: Any, root: Any, refs: tuple[str, ...], depth: int = 0) -> None:
    """One node of a structured-output schema and all below it; `refs` are the references that led here."""
    _require(isinstance(schema, dict), "output_config.format.schema: Input should be an object")
    _require(depth <= MAX_SCHEMA_DEPTH, "output_config.format.schema: Schema is too complex")
    if "$ref" in schema:
        ref = schema["$ref"]
        _require(ref not in refs, f"output_config.format.schema: Circular reference detected: {ref}")
        _check_schema(_find_definition(root, ref), root, (*refs, ref), depth + 1)
        return
    for limit in SCHEMA_LIMITS:
        _require(limit not in schema, f"output_config.format.schema: property '{limit}' is not supported")
    _require(
        schema.get("minItems", 0) in (0, 1),
        "output_config.format.schema: 'minItems' values other than 0 or 1 are not supported",
    )
    _require(
        schema.get("format") in (None, *STRING_FORMATS),
        "output_config.format.schema: string format is not supported",
    )
    _check_schema_type(schema)
    children = [schema["items"]] if "items" in schema else []
    for word in ("anyOf", "allOf"):
        children += schema.get(word, [])
    for child in [*children, *schema.get("properties", {}).values()]:
        _check_schema(child, root, refs, depth + 1)


def _check_schema_type(schema: Json) -> None:
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    shaped = kinds or any(word in schema for word in ("anyOf", "allOf", "enum", "const"))
    _require(bool(shaped) and set(kinds) <= SCHEMA_TYPES, "output_config.format.schema: a type is required")
    if "object" in kinds:
        closed = schema.get("additionalProperties") is False
        _require(
            closed,
            "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false",
        )
        missing = set(schema.get("required", [])) - set(schema.get("properties", {}))
        _require(not missing, "output_config.format.schema: 'required' names unknown properties")


def _find_definition(root: Json, ref: Any) -> Any:
    name = ref.removeprefix("#/$defs/") if isinstance(ref, str) else ""
    definitions = root.get("$defs", {})
    _require(name in definitions, f"output_config.format.schema: unsupported reference {ref!r}")
    return definitions[name]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise _Refused(message)
