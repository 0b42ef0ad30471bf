"""Every setting, read and validated once.

One pydantic model is the single list: the environment (`STAFFSTREAM_…`), the command line's flags, the table in
docs/SETTINGS.md and the validation all come from its fields. The SDK's own variables (`ANTHROPIC_API_KEY`,
`ANTHROPIC_BASE_URL`) keep their names.
"""

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    SecretStr,
    ValidationError,
    field_validator,
)

from staffstream.domain import load_zone
from staffstream.errors import SetupError

ENV_PREFIX = "STAFFSTREAM_"
_HOST = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
_SWITCH_WORDS = {"true", "false", "yes", "no", "on", "off", "1", "0"}  # what the setting was before it named hosts
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _check_zone(name: str) -> str:
    load_zone(name)
    return name


def _parse(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Price = tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat]
Prices = Annotated[dict[str, Price], BeforeValidator(_parse)]


def read_database(value: object) -> Any:
    """A URL is kept as a secret, since it may hold a password; anything else is a path."""
    if not isinstance(value, str):
        return value
    return SecretStr(value) if value.startswith(("postgres://", "postgresql://")) else Path(value)


Database = Annotated[Path | SecretStr, BeforeValidator(read_database)]


class Settings(BaseModel):
    """How one server behaves. Construct it with keyword arguments, or with `read_settings` from the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8001, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    db: Database = Field(
        Path("staffstream.db"), description="The SQLite file, made if absent; or a postgresql://… URL."
    )
    model: str = Field("claude-sonnet-5-5", min_length=1, description="Model of staff members that name none.")
    background_model: str = Field(
        "claude-haiku-5-5", min_length=1, description="Model that extracts memories and writes summaries."
    )
    context_budget_tokens: int = Field(
        6000,
        ge=200,
        le=1_000_000,
        description="Most tokens that one prompt may take, unless the staff member says otherwise.",
    )
    max_output_tokens: int = Field(
        4096,
        ge=1,
        le=128_000,
        description="Most tokens of one reply, unless the staff member says otherwise.",
    )
    durability: Literal["full", "normal"] = Field(
        "full", description="SQLite's `synchronous`. `normal` may lose the last commits when the power fails."
    )
    auth: Literal["keys", "off"] | None = Field(
        None,
        description="Who may call. Default: `off` on a loopback address, else `keys`; `off` is refused elsewhere.",
    )
    connect_timeout_s: float = Field(10, gt=0, description="Longest wait for a connection to Claude.")
    first_event_timeout_s: float = Field(60, gt=0, description="Longest wait for Claude to accept a request.")
    stream_timeout_s: float = Field(
        120,
        gt=0,
        description="Longest silence of content from Claude within a reply; its pings do not count.",
    )
    run_timeout_s: float = Field(600, gt=0, description="Longest time that one reply may take in all.")
    upstream_retries: int = Field(
        2,
        ge=0,
        le=10,
        description="Further attempts at Claude after a transient failure before the first token.",
    )
    upstream_retry_cap_s: float = Field(
        20, gt=0, description="Longest wait before such an attempt, whatever Retry-After asks."
    )
    heartbeat_s: float = Field(15, gt=0, description="A comment line is sent after this much silence of a stream.")
    slow_reader_s: float = Field(
        30,
        gt=0,
        description="A client that takes nothing of a response for so long is disconnected; its reply goes on.",
    )
    shutdown_grace_s: float = Field(
        20, ge=0, description="How long running replies may go on after SIGTERM, SIGINT or SIGHUP."
    )
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Largest request body.")
    max_import_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="Largest body of a conversation import or a list of memories."
    )
    max_bodies_bytes: int = Field(
        128 * 1024 * 1024,
        ge=1024,
        description="Most bytes of request bodies that are read at the same time, but for the first 64 KiB of each; one"
        " key may take half of them.",
    )
    body_timeout_s: float = Field(30, gt=0, description="Longest wait for a request's body.")
    root_path: str = Field(
        "",
        pattern=r"^(/[^/?#\s]+)*$",
        description="The prefix that a proxy in front cuts off, like `/assist`: the paths of answers begin with it.",
    )
    allowed_hosts: Names = Field(
        (),
        description="Names, comma-separated, that requests may call the server by besides the loopback names; `*`"
        " allows all. Default: without keys its own address, with keys all.",
    )
    cors_origins: Names = Field(
        (), description="Origins, comma-separated, whose pages may call the server from browsers; `*` allows all."
    )
    requests_per_minute: int = Field(1200, ge=0, description="Most requests of one key in a minute; 0 for no limit.")
    streams_per_key: int = Field(100, ge=0, description="Most open streams of one key; 0 for no limit.")
    streams: int = Field(5000, ge=0, description="Most open streams in all; 0 for no limit.")
    upstream_concurrency: int = Field(
        2000, ge=1, description="Most requests to Claude at the same time; further ones wait for a place."
    )
    user_tokens_per_day: int | None = Field(
        None, ge=0, description="Most tokens, of prompts and replies together, that one user may use in a day (UTC)."
    )
    user_cost_per_day: float | None = Field(
        None, ge=0, description="Most US dollars that one user may cost in a day (UTC)."
    )
    staff_tokens_per_day: int | None = Field(None, ge=0, description="The same tokens, for one staff member.")
    staff_cost_per_day: float | None = Field(None, ge=0, description="The same dollars, for one staff member.")
    prices: Prices = Field(
        {},
        description="Corrects Claude's prices: JSON of US dollars for a million tokens,"
        ' `{"model": [input, output, cache write, cache read]}`.',
    )
    retention_days: int | None = Field(
        None,
        ge=1,
        description="Conversations that were not used for so many days are erased with all that came from them."
        " Default: they are kept.",
    )
    context_retention_days: int | None = Field(
        90, ge=1, description="The records of what replies were built from are erased after so many days."
    )
    time_zone: Annotated[str, AfterValidator(_check_zone)] = Field(
        "UTC", description="Time zone of users who have given none, by its IANA name such as `Europe/Oslo`."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What the log holds.")
    log_format: Literal["text", "json"] = Field("text", description="How a line of the log looks.")
    log_text: bool = Field(
        False, description="Let the log hold what Claude says of a refused request, though it may quote a message."
    )
    fast_paths: bool = Field(
        True,
        description="Relay tokens past parts of aiohttp and Hypercorn, where these are as expected; `off` if a release"
        " of theirs makes trouble. What clients receive is the same.",
    )
    async_concurrency: int = Field(
        16,
        ge=1,
        description="How many queued replies are made at the same time, in different conversations; of one user no more"
        " than three quarters of these.",
    )
    lease_s: float = Field(
        15,
        ge=0.5,
        description="What a process is making may be taken over by another one after so long without a sign of life.",
    )
    max_queue_age_s: float = Field(
        300, gt=0, description="Readiness fails when a reply or a job that is due has waited for so long."
    )
    webhook_allow_private: Names = Field(
        (),
        description="Hosts, comma-separated, each as `name` or `name:port`, that staff members' webhooks may go to"
        " though their addresses are not public. A message's own webhook may not.",
    )
    stream_share: float = Field(
        1, ge=0, le=1, description="The share of users whom `GET …/mode` sends to the stream; the others go to polling."
    )
    extract_every_messages: int = Field(
        10, ge=1, le=1000, description="Facts are learned from a conversation after so many messages …"
    )
    extract_idle_s: float = Field(300, ge=0, description="… or after so much quiet.")
    memory_half_life_days: float = Field(
        180, gt=0, description="Age takes at most a tenth of a memory's weight, half of that after so many days."
    )
    latest_half_life_days: float = Field(
        30,
        gt=0,
        description="The same when a question asks for the latest; then age takes at most half of the weight.",
    )
    embedder: str = Field(
        "static",
        description="What makes memories searchable by meaning: `static` (built in), `minilm` or `minilm:DIRECTORY`"
        " (the extra of that name), `voyage:MODEL`, or `openai:MODEL` for any OpenAI-compatible endpoint.",
    )
    embedder_url: str | None = Field(None, description="Address of an OpenAI-compatible embedder, up to /v1.")
    embedder_key: SecretStr | None = Field(None, description="Key of a remote embedder.")
    embedder_dimensions: int | None = Field(None, ge=8, le=4096, description="Dimensions of a remote embedder.")
    offline: bool = Field(
        False, description="Answer with the built-in stand-in instead of Claude. Needs no key and no network."
    )
    offline_pace_s: float = Field(0.025, ge=0, description="The stand-in's pause between two words.")
    anthropic_api_key: SecretStr | None = Field(None, description="Claude's key (ANTHROPIC_API_KEY).")
    anthropic_base_url: str | None = Field(None, description="Claude's address (ANTHROPIC_BASE_URL).")

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """As browsers write them, or none would ever be equal to what one sends."""
        found = tuple(origin.lower().rstrip("/") for origin in origins)
        if wrong := [origin for origin in found if origin != "*" and not _ORIGIN.fullmatch(origin)]:
            raise ValueError(f"{wrong[0]!r} is no origin; write it like https://chat.example.com")
        return found

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        """Without a port or a path, which are not looked at and would make the name equal to none."""
        found = tuple(host.lower().removeprefix("[").removesuffix("]") for host in hosts)
        if wrong := [host for host in found if "/" in host or host.count(":") == 1]:
            raise ValueError(f"{wrong[0]!r} is no bare name; write it like chat.example.com, without a port")
        return found

    @field_validator("webhook_allow_private")
    @classmethod
    def _check_private_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(host.lower() for host in hosts)
        wrong = [host for host in found if host in _SWITCH_WORDS or not _HOST.fullmatch(host)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no host; write it like hooks.internal or 10.0.0.7:9000")
        return tuple(host[1:-1] if host.startswith("[") and host.endswith("]") else host for host in found)

    @field_validator("anthropic_api_key")
    @classmethod
    def _check_key(cls, key: SecretStr | None) -> SecretStr | None:
        """Strip it, and refuse what cannot be a header: an HTTP client would put the key into its exception."""
        text = key.get_secret_value().strip() if key else ""
        if any(not 32 < ord(character) < 127 for character in text):
            raise ValueError("has characters that no key has; copy it again")
        return SecretStr(text) if text else None

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def uses_keys(self) -> bool:
        """Whether callers need a key."""
        return self.auth == "keys" or (self.auth is None and not self.on_loopback)


_SDK_FIELDS = {"anthropic_api_key": "ANTHROPIC_API_KEY", "anthropic_base_url": "ANTHROPIC_BASE_URL"}


def name_variable(field: str) -> str:
    """The environment variable of a setting."""
    return _SDK_FIELDS.get(field, ENV_PREFIX + field.upper())


def read_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from the environment, with `overrides` that are not None on top.

    Raises SetupError with one line a mistake, naming the variable and what it takes, never its value.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {
        field: environ[name_variable(field)]
        for field in Settings.model_fields
        if environ.get(name_variable(field), "") != ""
    }
    values |= {field: value for field, value in overrides.items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = [f"{name_variable(str(e['loc'][0]))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise SetupError("Some settings are wrong.\n  " + "\n  ".join(lines)) from None
