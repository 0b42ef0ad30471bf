"""Join tokens: an EventSource sends no headers, so with keys it joins a run by a token in the URL.

A token lets whoever has it follow one run for 15 to 30 minutes, as long as the key that got it is valid. It is an
HMAC under a secret of the database, so every process on the file knows those of the others.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

from staffstream.domain import Caller
from staffstream.errors import Unauthorized
from staffstream.storage import keys, meta
from staffstream.storage.database import Connection, Database

LIFETIME_S = 900  # at least
_NOTE = "join_secret"


def ensure_secret(tx: Connection) -> bytes:
    """The secret of the database, made at first use."""
    found = meta.find_note(tx, _NOTE)
    if found is None:
        found = secrets.token_hex(32)
        meta.set_note(tx, _NOTE, found)
    return bytes.fromhex(found)


class JoinTokens:
    """Makes and checks the tokens."""

    def __init__(self, database: Database, secret: bytes, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._secret = secret
        self._clock = clock

    def make(self, run_id: str, key_id: str) -> str:
        """A token for a run, in the name of the key. It is the same for a while, so that the run's ETag stays too."""
        expires_at = (int(self._clock()) // LIFETIME_S + 2) * LIFETIME_S
        return f"{expires_at}.{key_id}.{self._sign(run_id, key_id, expires_at)}"

    async def identify(self, run_id: str, token: str) -> Caller:
        """The caller in whose name a run's token was made. Raises Unauthorized."""
        expires, _, rest = token.partition(".")
        key_id, _, signature = rest.partition(".")
        if not (expires.isascii() and expires.isdigit() and len(expires) < 15) or int(expires) < self._clock():
            raise Unauthorized("The join token has expired or is none. The run's answer has a new one.")
        if not hmac.compare_digest(signature.encode(), self._sign(run_id, key_id, int(expires)).encode()):
            raise Unauthorized("The join token has expired or is none. The run's answer has a new one.")
        key = await self._database.read(lambda conn: keys.find_key_by_id(conn, key_id))
        if key is None:
            raise Unauthorized
        return Caller(key.user_id, key.role, key.id)

    def _sign(self, run_id: str, key_id: str, expires_at: int) -> str:
        digest = hmac.digest(self._secret, f"{run_id} {key_id} {expires_at}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
