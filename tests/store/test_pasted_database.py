"""docs/fleet.md's lines for the database, pasted into a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..pages.pages import blocks
from .cluster import PASSWORD, Cluster, cluster


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def test_the_role_and_its_database_are_made_and_let_in(server: Cluster) -> None:
    (block,) = blocks("sh database")
    user = (
        {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    )
    done = subprocess.run(
        ["setsid", "bash", "-ec", block.text],  # without a terminal the password is read from here
        input="secret\nsecret\n", capture_output=True, text=True, timeout=60, cwd="/",
        env={
            "PATH": f"{server.programs}:{os.environ['PATH']}", "PGHOST": str(server.home),
            "PGPORT": str(server.port), "PGUSER": "admin", "PGPASSWORD": PASSWORD,
        },
        **user,  # type: ignore[call-overload]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'smtp_sts'"
    assert server.sql(owner) == ["smtp_sts"]
    (line,) = blocks("pg_hba")
    path = Path(server.sql("SHOW hba_file")[0])
    path.write_text(path.read_text() + line.text)
    wrong = server.sql("SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL")
    # Without a certificate of its own this server cannot do TLS; the line itself is read.
    assert all("SSL is disabled" in row or "cannot match" in row for row in wrong), wrong
    rules = server.sql("SELECT database FROM pg_hba_file_rules WHERE type = 'hostssl'")
    assert rules == ["{smtp_sts}"]
