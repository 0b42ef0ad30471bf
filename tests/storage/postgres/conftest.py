"""A cluster for these tests, whichever engine the session is on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools import databases
from tests.tools.postgres import Cluster, run_cluster


@pytest.fixture(scope="session")
def cluster(_engine: None) -> Iterator[Cluster]:
    """The session's, or else one of these tests' own."""
    if databases.cluster:
        yield databases.cluster
        return
    with run_cluster() as cluster:
        yield cluster


@pytest.fixture
def url(cluster: Cluster, db: Path) -> str:
    """A database of a test's own."""
    return cluster.find_url(db)
