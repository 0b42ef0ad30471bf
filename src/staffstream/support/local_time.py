"""The date and time in a time zone, as it is written in prompts."""

from datetime import datetime

from staffstream.domain import load_zone, parse_time


def read_local(moment: str, zone: str) -> datetime:
    """The local date and time of a zone for an RFC 3339 text."""
    return parse_time(moment).astimezone(load_zone(zone))


def describe_moment(moment: str, zone: str) -> str:
    """E.g. "Tuesday, 1 December 2026, 03:17 (Europe/Oslo)"."""
    local = read_local(moment, zone)
    return f"{local:%A}, {local.day} {local:%B %Y}, {local:%H:%M} ({zone})"
