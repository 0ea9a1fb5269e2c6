"""Both event loops: the daemon runs on uvloop, and on asyncio's own where that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine to its end, on each event loop."""
    runner: Callable[[Coroutine[Any, Any, Any]], Any] = request.param
    return runner
