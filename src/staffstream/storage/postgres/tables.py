"""Our tables in PostgreSQL: made, brought to today's, or refused in one clear line."""

import contextlib
import logging
from urllib.parse import urlsplit

import psycopg

from staffstream.errors import SetupError
from staffstream.storage.database import Group
from staffstream.storage.postgres.connections import OTHERS, PostgresConnection, connect, get_error_name
from staffstream.storage.postgres.translation import translate_script
from staffstream.storage.schema import read_migrations, read_schema, read_version

log = logging.getLogger(__name__)

OLDEST_VERSION = 150000
_MIGRATING = 1


def describe_place(url: str) -> str:
    """The URL without user, password and options."""
    try:
        parts = urlsplit(url)
        return f"postgresql://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except ValueError:
        return "the PostgreSQL database"


def open_or_refuse(url: str) -> PostgresConnection:
    """A connection, or a SetupError that says why there is none."""
    place = describe_place(url)
    try:
        connection = connect(url, Group())
    except psycopg.OperationalError as error:
        log.debug("connecting to %s failed", place, exc_info=error)
        reason = "refused" if error.sqlstate else "cannot be reached"
        raise SetupError(
            f"{place} {reason} ({get_error_name(error)}). Is PostgreSQL running there, and are user and password right?"
        ) from error
    except psycopg.Error as error:
        raise SetupError(
            f"{place} is no usable address of a PostgreSQL database ({get_error_name(error)})."
            " Write it as postgresql://user:password@host:port/database"
        ) from error
    if (version := connection.driver.info.server_version) < OLDEST_VERSION:
        connection.close()
        raise SetupError(f"{place} is PostgreSQL {version // 10000}; at least {OLDEST_VERSION // 10000} is needed.")
    return connection


def prepare_tables(url: str) -> None:
    """Make our tables, or bring older ones to today's, in one transaction.

    Raises SetupError when the database cannot be used, and has then changed nothing in it.
    """
    place = describe_place(url)
    with contextlib.closing(open_or_refuse(url)) as connection:
        row = connection.execute("SELECT current_setting('server_encoding') AS encoding").fetchone()
        if row["encoding"] != "UTF8":
            raise SetupError(f"{place} has the encoding {row['encoding']}; UTF8 is needed. Make a new database.")
        try:
            with connection.transact():
                connection.driver.execute(
                    "SELECT pg_advisory_xact_lock($1::int4, $2::int4)", (connection.namespace ^ OTHERS, _MIGRATING)
                )
                _migrate(connection, place)
        except psycopg.errors.InsufficientPrivilege as error:
            raise SetupError(f"This role may not create tables in {place}. Grant it CREATE on its schema.") from error
        except psycopg.errors.InvalidSchemaName as error:
            raise SetupError(f"{place} has no schema to create tables in. Create the one in search_path.") from error
        except psycopg.Error as error:
            raise SetupError(f"{place} cannot be used as a database ({get_error_name(error)}).") from error


def find_version(connection: PostgresConnection) -> int:
    """The version of the tables that are there; 0 where there are none."""
    row = connection.execute("SELECT to_regclass('schema_version') IS NOT NULL AS known").fetchone()
    if not row["known"]:
        return 0
    found = connection.execute("SELECT version FROM schema_version").fetchone()
    return int(found["version"]) if found else 0


def _migrate(connection: PostgresConnection, place: str) -> None:
    schema = read_schema()
    version, current = find_version(connection), read_version(schema)
    if version > current:
        raise SetupError(
            f"{place} was made by a newer staffstream (schema {version}, this one knows {current})."
            " Upgrade staffstream."
        )
    scripts = [schema] if version == 0 else [script for target, script in read_migrations() if target > version]
    for script in scripts:
        for statement in translate_script(script):
            with psycopg.ClientCursor(connection.driver) as cursor:  # may hold several statements
                cursor.execute(statement.encode())
