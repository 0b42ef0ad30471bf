"""Write docs/SETTINGS.md and docs/COMMANDS.md from the code; with --check, only say whether they are up to date."""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from staffstream.cli.main import make_parser
from staffstream.settings import Settings, name_variable

DOCS = Path(__file__).parents[1] / "docs"
_NOTE = "<!-- Written by scripts/write_reference.py. -->\n\n"


def write_settings() -> str:
    """The table of all settings."""
    rows = [
        f"| `{name_variable(name)}` | {_show_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return (
        "# Settings\n\n" + _NOTE + "Environment variables, or flags of `staffstream serve` with the same names"
        " (`STAFFSTREAM_PORT` is `--port`); a flag wins. A key has no flag: it would show in the process list."
        " In Python: `Settings(port=…)`.\n\n| variable | default | meaning |\n| --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n"
    )


def write_commands() -> str:
    """Every command with its options."""
    parts = [f"## `{name}`\n\n{body}" for name, body in _describe(make_parser(), "staffstream")]
    return "# Commands\n\n" + _NOTE + "\n".join(parts)


def _show_default(value: object) -> str:
    return "" if value is None else f"`{value}`"


def _describe(parser: argparse.ArgumentParser, name: str, help: str = "") -> Iterator[tuple[str, str]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        helps = {choice.dest: choice.help or "" for choice in group._choices_actions}
        for command, inner in group.choices.items():
            yield from _describe(inner, f"{name} {command}", helps.get(command, ""))
    if not groups:
        yield name, f"{help[:1].upper()}{help[1:]}.\n\n" + _list_options(parser, name)


def _list_options(parser: argparse.ArgumentParser, name: str) -> str:
    if name == "staffstream serve":
        return "Takes every setting as a flag, see [SETTINGS.md](SETTINGS.md).\n"
    lines = []
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            label = ", ".join(action.option_strings) or action.dest.upper()
            lines.append(f"- `{label}`: {_clean_help(action.help or '')}".rstrip(": "))
    return "\n".join(lines) + ("\n" if lines else "")


def _clean_help(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("%%", "%"))


def main() -> int:
    """Exit status 1 when --check finds a page that is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    stale = []
    for name, text in (("SETTINGS.md", write_settings()), ("COMMANDS.md", write_commands())):
        page = DOCS / name
        if not page.is_file() or page.read_text("utf-8") != text:
            stale.append(name)
            if not args.check:
                page.write_text(text, "utf-8")
    print(f"out of date: {', '.join(stale)}" if stale and args.check else "docs are up to date")
    return int(bool(stale) and args.check)


if __name__ == "__main__":
    sys.exit(main())
