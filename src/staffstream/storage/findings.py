"""What a check of the database, or of anything else that a server needs, has found."""

from typing import Literal, NamedTuple

Verdict = Literal["ok", "note", "wrong"]


class Finding(NamedTuple):
    """`note` is worth knowing, `wrong` keeps the server from working as it should."""

    verdict: Verdict
    subject: str
    text: str
