"""What the tests with real mail servers share: root file systems, or the reason for a skip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from smtp_sts.lab.machine import CannotBuild, missing, root_file_systems

from .cannot import cannot


class _Roots(dict[str, Path]):
    def __missing__(self, suite: str) -> Path:
        cannot(f"no root file system of {suite} could be made")


@pytest.fixture(scope="session")
def roots() -> Callable[[str], dict[str, Path]]:
    """For an MTA ("" is Postfix): Debian suite -> root file system. Skips where none can be."""
    reason = missing()
    if reason:
        cannot(reason)

    def of(mta: str) -> dict[str, Path]:
        try:
            return _Roots(root_file_systems(mta))
        except CannotBuild as error:
            cannot(str(error))

    return of
