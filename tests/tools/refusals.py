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
SCHEMA = "output_config.format.schema"
SCHEMA_PARTS: dict[str, type] = {
    **{"$ref": str, "$defs": dict, "type": str, "properties": dict, "items": dict, "required": list},
    **{"enum": list, "anyOf": list, "allOf": list},
}
OPEN_OBJECT = "For 'object' type, 'additionalProperties' must be explicitly set to false"


class _Refused(Exception):
    """The API's own words for what is wrong."""


def refuse(body: Any) -> tuple[int, str, str] | None:
    """Status, error type and message of the API's refusal of a parsed body; None if it would take it."""
    try:
        _check_body(body)
    except _Refused as refusal:
        return 400, "invalid_request_error", str(refusal)
    return None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise _Refused(message)


def _check_body(body: Any) -> None:
    _require(isinstance(body, dict), "body: Input should be an object")
    _check_strings(body)
    for field in body:
        _require(field in FIELDS, f"{field}: Extra inputs are not permitted")
    for field in ("model", "max_tokens", "messages"):
        _require(field in body, f"{field}: Field required")
    _require(isinstance(body["model"], str) and body["model"] != "", "model: Input should be a valid string")
    _require(_is_count(body["max_tokens"]), "max_tokens: Input should be a valid integer, at least 0")
    _check_messages(body["messages"])
    if "system" in body:
        _check_content(body["system"], "system", frozenset({"text"}))
    _check_options(body)
    _check_cache_marks(body)
    _check_output_config(body.get("output_config", {}))


def _check_strings(body: Json) -> None:
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
    _require(_is_list_of_objects(messages), "messages: Input should be a valid list of objects")
    _require(messages != [], "messages: at least one message is required")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        _require(set(message) == {"role", "content"}, f"{where}: only role and content, and both, are permitted")
        known = message["role"] in ("user", "assistant", "system")
        _require(known, f"{where}.role: Input should be 'user' or 'assistant'")
        _check_content(message["content"], where, BLOCK_TYPES)
    _require(messages[0]["role"] == "user", "messages: first message must use the user role")
    _require(
        messages[-1]["role"] != "assistant",
        "This model does not support assistant message prefill. The conversation must end with a user message.",
    )


def _check_content(content: Any, where: str, block_types: frozenset[str]) -> None:
    if isinstance(content, str):
        _require(content.strip() != "", f"{where}: text content blocks must contain non-whitespace text")
        return
    _require(_is_list_of_objects(content), f"{where}.content: Input should be a valid string or list of blocks")
    _require(content != [], f"{where}: all messages must have non-empty content")
    for index, block in enumerate(content):
        _check_block(block, f"{where}.content.{index}", block_types)


def _check_block(block: Json, where: str, block_types: frozenset[str]) -> None:
    kind = block.get("type")
    known = isinstance(kind, str) and kind in block_types
    _require(known, f"{where}: Input tag {kind!r} does not match any of the expected tags")
    _check_cache_mark(block.get("cache_control"), where)
    if kind != "text":
        return
    fields = {"type", "text", "cache_control", "citations"}
    _require(set(block) <= fields, f"{where}.text: Extra inputs are not permitted")
    text = block.get("text")
    _require(isinstance(text, str), f"{where}.text.text: Input should be a valid string")
    if not block["text"].strip():
        _require(not block.get("cache_control"), f"{where}: cache_control cannot be set for empty text blocks")
        raise _Refused(f"{where}: text content blocks must contain non-whitespace text")


def _check_cache_mark(mark: Any, where: str) -> None:
    if mark is None:
        return
    known = isinstance(mark, dict) and mark.get("type") == "ephemeral" and set(mark) <= {"type", "ttl"}
    _require(known, f"{where}.cache_control: Input should be of type 'ephemeral'")
    _require(mark.get("ttl", "5m") in ("5m", "1h"), f"{where}.cache_control.ttl: Input should be '5m' or '1h'")


def _check_cache_marks(body: Json) -> None:
    _check_cache_mark(body.get("cache_control"), "body")
    marks = sum(bool(block.get("cache_control")) for block in (body, *_list_blocks(body)))
    limit = f"A maximum of {MAX_CACHE_MARKS} blocks with cache_control may be provided. Found {marks}."
    _require(marks <= MAX_CACHE_MARKS, limit)


def _list_blocks(body: Json) -> Iterator[Json]:
    """What can carry a cache mark: tools, system blocks, message blocks, and the blocks of tool results."""
    parts = [body.get("tools"), body.get("system"), *(message["content"] for message in body["messages"])]
    for part in parts:
        for block in part if isinstance(part, list) else ():
            yield block
            inner = block.get("content")
            yield from inner if _is_list_of_objects(inner) else ()


def _check_options(body: Json) -> None:
    stops = body.get("stop_sequences", [])
    spoken = isinstance(stops, list) and all(isinstance(stop, str) and stop.strip() for stop in stops)
    _require(spoken, "stop_sequences: each stop sequence must contain non-whitespace")
    _require(isinstance(body.get("stream", False), bool), "stream: Input should be a valid boolean")
    tier = body.get("service_tier", "auto")
    _require(tier in ("auto", "standard_only"), "service_tier: Input should be 'auto' or 'standard_only'")
    metadata = body.get("metadata", {})
    known = isinstance(metadata, dict) and set(metadata) <= {"user_id"}
    _require(known, "metadata: Extra inputs are not permitted")
    _require(isinstance(metadata.get("user_id"), str | None), "metadata.user_id: Input should be a valid string")
    _require(_is_list_of_objects(body.get("tools", [])), "tools: Input should be a valid list of objects")
    _require(isinstance(body.get("tool_choice", {}), dict), "tool_choice: Input should be an object")
    _check_thinking(body.get("thinking", {"type": "disabled"}), body["max_tokens"])


def _check_thinking(thinking: Any, max_tokens: int) -> None:
    kinds = ("enabled", "adaptive", "disabled", "between_tools")
    known = isinstance(thinking, dict) and thinking.get("type") in kinds
    _require(known, f"thinking: Input should be one of {kinds}")
    if thinking["type"] == "enabled":
        budget = thinking.get("budget_tokens")
        _require(_is_count(budget, 1024), "thinking.enabled.budget_tokens: Input should be at least 1024")
        _require(budget < max_tokens, "`max_tokens` must be greater than `thinking.budget_tokens`")


def _check_output_config(config: Any) -> None:
    known = isinstance(config, dict) and set(config) <= {"effort", "format"}
    _require(known, "output_config: Extra inputs are not permitted")
    efforts = (None, "low", "medium", "high", "xhigh", "max")
    _require(config.get("effort") in efforts, f"output_config.effort: Input should be one of {efforts[1:]}")
    shape = config.get("format")
    if shape is not None:
        _require(isinstance(shape, dict), "output_config.format: Input should be an object")
        _require(shape.get("type") == "json_schema", "output_config.format: Input tag should be 'json_schema'")
        _require(set(shape) == {"type", "schema"}, "output_config.format: a schema, and nothing else, is required")
        _check_schema(shape["schema"], shape["schema"])


def _check_schema(schema: Any, root: Any, refs: tuple[str, ...] = (), depth: int = 0) -> None:
    """One node of a structured-output schema and all below it; `refs` are the references that led here."""
    _require(isinstance(schema, dict), f"{SCHEMA}: Input should be an object")
    _require(depth <= MAX_SCHEMA_DEPTH, f"{SCHEMA}: Schema is too complex")
    for part, kind in SCHEMA_PARTS.items():
        _require(isinstance(schema.get(part, kind()), kind), f"{SCHEMA}: '{part}' has the wrong type")
    if "$ref" in schema:
        ref = schema["$ref"]
        name = ref.removeprefix("#/$defs/")
        definitions = root.get("$defs", {})
        _require(name in definitions, f"{SCHEMA}: Unsupported reference {ref}")
        _require(ref not in refs, f"{SCHEMA}: Circular reference {ref}")
        _check_schema(definitions[name], root, (*refs, ref), depth + 1)
        return
    _check_node(schema)
    children = [schema["items"]] if "items" in schema else []
    children += [*schema.get("anyOf", []), *schema.get("allOf", []), *schema.get("properties", {}).values()]
    for child in children:
        _check_schema(child, root, refs, depth + 1)


def _check_node(schema: Json) -> None:
    """One node, but for what is below it."""
    for limit in SCHEMA_LIMITS:
        _require(limit not in schema, f"{SCHEMA}: property '{limit}' is not supported")
    _require(schema.get("minItems", 0) in (0, 1), f"{SCHEMA}: 'minItems' above 1 is not supported")
    _require(schema.get("format") in (None, *STRING_FORMATS), f"{SCHEMA}: this string format is not supported")
    plain = all(isinstance(value, str | int | float | None) for value in schema.get("enum", ()))
    _require(plain, f"{SCHEMA}: 'enum' values should be strings, numbers, booleans or null")
    shaped = any(schema.get(word) for word in ("anyOf", "allOf", "enum")) or "const" in schema
    kind = schema.get("type")
    _require(shaped if kind is None else kind in SCHEMA_TYPES, f"{SCHEMA}: a supported 'type' is required")
    if kind == "object":
        _require(schema.get("additionalProperties") is False, f"{SCHEMA}: {OPEN_OBJECT}")
        unknown = [name for name in schema.get("required", ()) if name not in schema.get("properties", {})]
        _require(not unknown, f"{SCHEMA}: 'required' names an unknown property")


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
