"""What `doctor` looks at where the database is PostgreSQL: the server, the tables, the clock."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

from staffstream.storage.findings import Finding
from staffstream.storage.postgres.tables import describe_place, find_version, open_or_refuse
from staffstream.storage.schema import read_version

MAX_SKEW_S = 1.0
_COUNTED = ("staff", "conversations", "messages", "memories")


def check_server(url: str) -> Iterator[Finding]:
    """Whether the server answers and its tables are today's, and how far its clock is from ours. Raises SetupError."""
    place = describe_place(url)
    with contextlib.closing(open_or_refuse(url)) as connection:
        info = connection.driver.info
        yield Finding("ok", "database", f"{place} answers, PostgreSQL {info.server_version // 10000}")
        version, current = find_version(connection), read_version()
        if version == 0:
            yield Finding("ok", "tables", "they are not there yet and will be made")
        elif version == current:
            counts = [
                f"{connection.execute(f'SELECT count(*) FROM {name}').fetchone()[0]:,} {name}" for name in _COUNTED
            ]
            yield Finding("ok", "tables", f"schema {version}; {', '.join(counts)}")
        else:
            verdict = f"schema {version}, this staffstream knows {current}"
            yield Finding("note" if version < current else "wrong", "tables", verdict)
        now = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8 AS now").fetchone()["now"]
        skew_s = abs(datetime.now(UTC).timestamp() - now)
        if skew_s > MAX_SKEW_S:
            yield Finding(
                "wrong", "clocks", f"this machine's and the database's differ by {skew_s:.1f} s. Have NTP keep both."
            )
