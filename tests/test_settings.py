"""Settings: where they come from, what is refused, and that nothing secret is said back."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from staffstream.errors import SetupError
from staffstream.settings import Settings, name_variable, read_settings


def test_defaults_are_the_contracts() -> None:
    """With nothing set: loopback, port 8001, 6,000 tokens, 120 s of silence, 600 s a run, no key needed."""
    settings = read_settings({})
    assert (settings.host, settings.port, settings.db) == ("127.0.0.1", 8001, Path("staffstream.db"))
    assert (settings.context_budget_tokens, settings.stream_timeout_s, settings.run_timeout_s) == (6000, 120, 600)
    assert (settings.durability, settings.uses_keys, settings.offline) == ("full", False, False)
    assert settings.anthropic_api_key is None


def test_the_environment_is_read() -> None:
    """Each field has its variable; the SDK's own keep their names."""
    settings = read_settings(
        {
            "STAFFSTREAM_PORT": "9000",
            "STAFFSTREAM_DB": "/data/a b.db",
            "STAFFSTREAM_OFFLINE": "1",
            "ANTHROPIC_API_KEY": "  sk-ant-1\n",
            "ANTHROPIC_BASE_URL": "http://localhost:1",
            "PORT": "1",
        }
    )
    assert (settings.port, settings.db, settings.offline) == (9000, Path("/data/a b.db"), True)
    assert settings.anthropic_api_key is not None
    assert settings.anthropic_api_key.get_secret_value() == "sk-ant-1"
    assert settings.anthropic_base_url == "http://localhost:1"


def test_a_flag_wins_over_the_environment() -> None:
    """An override counts unless it is None."""
    environ = {"STAFFSTREAM_PORT": "9000", "STAFFSTREAM_MODEL": "claude-a"}
    settings = read_settings(environ, port="9001", model=None)
    assert (settings.port, settings.model) == (9001, "claude-a")


def test_an_empty_variable_is_an_absent_one() -> None:
    """`STAFFSTREAM_PORT=` in a unit file means the default."""
    settings = read_settings({"STAFFSTREAM_PORT": "", "ANTHROPIC_API_KEY": ""})
    assert settings.port == 8001
    assert settings.anthropic_api_key is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STAFFSTREAM_PORT", "70000"),
        ("STAFFSTREAM_PORT", "http"),
        ("STAFFSTREAM_CONTEXT_BUDGET_TOKENS", "10"),
        ("STAFFSTREAM_STREAM_TIMEOUT_S", "0"),
        ("STAFFSTREAM_STREAM_TIMEOUT_S", "nan"),
        ("STAFFSTREAM_SHUTDOWN_GRACE_S", "inf"),
        ("STAFFSTREAM_SHUTDOWN_GRACE_S", "-1"),
        ("STAFFSTREAM_DURABILITY", "off"),
        ("STAFFSTREAM_AUTH", "none"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(variable: str, value: str) -> None:
    """The operator reads which variable to mend."""
    with pytest.raises(SetupError, match=variable):
        read_settings({variable: value})


def test_every_mistake_is_told_at_once() -> None:
    """Two wrong variables are two lines."""
    with pytest.raises(SetupError) as caught:
        read_settings({"STAFFSTREAM_PORT": "x", "STAFFSTREAM_AUTH": "x"})
    assert caught.value.detail.count("\n") == 2


@pytest.mark.parametrize("key", ["sk-ant-se\ncret", "sk-ant-se\rcret", "sk-ant-se cret", "sk-ant-secrét"])
def test_a_broken_key_is_refused_and_never_shown(key: str) -> None:
    """A CR or LF within the key would put it into an HTTP client's exception; the complaint does not quote it."""
    with pytest.raises(SetupError, match="ANTHROPIC_API_KEY") as caught:
        read_settings({"ANTHROPIC_API_KEY": key})
    assert "ant" not in caught.value.detail.replace("ANTHROPIC", "")
    assert caught.value.__cause__ is None


def test_the_key_is_not_in_the_repr() -> None:
    """Settings may be logged."""
    assert "sk-ant-1" not in repr(read_settings({"ANTHROPIC_API_KEY": "sk-ant-1"}))


def test_an_unknown_setting_is_a_mistake() -> None:
    """A misspelt keyword does not pass silently."""
    with pytest.raises(ValidationError, match="prot"):
        Settings(prot=8001)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("host", "on_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_keys_are_needed_off_loopback(host: str, on_loopback: bool) -> None:
    """Unset, `auth` is off where only this machine can reach the server."""
    settings = Settings(host=host)
    assert settings.on_loopback is on_loopback
    assert settings.uses_keys is not on_loopback


def test_every_field_says_what_it_is_for() -> None:
    """The flags' help and the table of settings are made from the descriptions."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert name_variable(name).isupper()
