"""One PostgreSQL server for the tests of this folder, and a database for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from .cluster import Cluster, cluster

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture
def database(server: Cluster) -> str:
    """The name of an empty database."""
    name = f"policies{next(_numbers)}"
    server.database(name)
    return name
