"""`staffstream reembed`: make every memory's vector anew, after another embedder was set. Can be stopped and gone on
with. No server may run meanwhile: it would compare questions of one embedder with vectors of another.
"""

import argparse
import asyncio
import contextlib
import os
from typing import Any

from staffstream.cli.commands import add_db_option, open_file, show_progress
from staffstream.models.embeddings import Embedder, make_embedder
from staffstream.settings import Settings, name_variable, read_settings
from staffstream.storage.database import Connection, transact
from staffstream.storage.engines import choose_engine, hold_alone
from staffstream.storage.vectors import (
    count_unembedded,
    holds_vectors_of,
    load_any_unembedded,
    reset_index,
    save_vectors,
)

BATCH = 256


def add_commands(commands: Any) -> None:
    """Add `reembed`."""
    parser = commands.add_parser("reembed", help="make every memory's vector anew with the embedder that is set")
    add_db_option(parser)
    parser.add_argument(
        "--embedder",
        default=os.environ.get(name_variable("embedder")) or Settings.model_fields["embedder"].default,
        help=f"the embedder [{name_variable('embedder')}]",
    )
    parser.set_defaults(run=_reembed)


def _reembed(args: argparse.Namespace) -> int:
    settings = read_settings(embedder=args.embedder)
    embedder = make_embedder(settings)
    with hold_alone(choose_engine(args.db)), open_file(args.db) as connection:
        asyncio.run(_embed_all(connection, embedder))
    return 0


async def _embed_all(connection: Connection, embedder: Embedder) -> None:
    async with contextlib.aclosing(embedder):
        if not holds_vectors_of(connection, embedder.name, embedder.dimensions):
            with transact(connection):
                reset_index(connection, embedder.name, embedder.dimensions)
        with show_progress(count_unembedded(connection), "memories") as progress:
            while embedded := await _embed_batch(connection, embedder):
                progress.update(embedded)


async def _embed_batch(connection: Connection, embedder: Embedder) -> int:
    """Embed the next memories of one scope; each batch is committed, so that a stop loses at most one."""
    scope, waiting = load_any_unembedded(connection, limit=BATCH)
    if not waiting:
        return 0
    vectors = await embedder.embed([text for _, text in waiting], kind="document")
    with transact(connection):
        save_vectors(connection, scope, [number for number, _ in waiting], vectors)
    return len(waiting)
