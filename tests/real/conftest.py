"""What the tests with real mail servers share: root file systems, or the reason for a skip, and a
world with each version of each mail server. A module that needs another world has its own fixture
of that name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smtp_sts.lab.machine import CannotBuild, missing, root_file_systems
from smtp_sts.lab.mtas.exim import SUITES as EXIM_SUITES
from smtp_sts.lab.mtas.postfix import SUITES as POSTFIX_SUITES
from smtp_sts.lab.mtas.sendmail import SUITES as SENDMAIL_SUITES

from .cannot import cannot
from .exim import Exim
from .exim import world as exim_world
from .postfix import Postfix
from .postfix import world as postfix_world
from .sendmail import Sendmail
from .sendmail import world as sendmail_world

Roots = Callable[[str], dict[str, Path]]


class _Roots(dict[str, Path]):
    def __missing__(self, suite: str) -> Path:
        cannot(f"no root file system of {suite} could be made")


@pytest.fixture(scope="session")
def roots() -> Roots:
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


@pytest.fixture(scope="module", params=sorted(EXIM_SUITES), ids="exim-{}".format)
def exim(request: pytest.FixtureRequest, roots: Roots) -> Iterator[Exim]:
    with exim_world(request.param, roots("exim")) as made:
        yield made


@pytest.fixture(scope="module", params=sorted(SENDMAIL_SUITES), ids="sendmail-{}".format)
def sendmail(request: pytest.FixtureRequest, roots: Roots) -> Iterator[Sendmail]:
    with sendmail_world(request.param, roots("sendmail")) as made:
        yield made


@pytest.fixture(scope="module", params=sorted(POSTFIX_SUITES), ids="postfix-{}".format)
def postfix(request: pytest.FixtureRequest, roots: Roots) -> Iterator[Postfix]:
    with postfix_world(request.param, roots("")) as made:
        yield made
