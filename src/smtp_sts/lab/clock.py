"""A clock that can be moved: days pass for the daemon, and for nothing else (libfaketime).

Promises: the daemon's time of day is the real one and what it was moved by, for every process that
it starts; how long anything takes is not touched. Works for every daemon that takes its time from
the C library; needs the package libfaketime, or Debian's. Must not: move anybody else's clock.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from smtp_sts.lab.python import PYTHON

MISSING: Final = "the clock cannot be moved here: pip install 'smtp-sts[lab]' (libfaketime)"
_DEBIAN: Final = "/usr/lib/*/faketime/libfaketime.so.1"
#: Prints whether the clock was moved by a day, and a sleep is still a sleep (not so in 0.9.10).
_PROBE: Final = (
    "import sys, time; time.sleep(0.01); print(time.time() - float(sys.argv[1]) > 80000)"
)


class Clock:
    """The clock of one daemon."""

    def __init__(self, home: Path, library: Path) -> None:
        """`home` is an existing directory; `library` is that of `library()`."""
        self.library = library
        self._path = home / "clock"
        self._moved = 0.0
        self.move(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """What a daemon has to be started with."""
        return _environment(self.library, self._path)

    def move(self, seconds: float) -> None:
        """Let so many seconds pass at once; below 0, set it back."""
        self._moved += seconds
        new = self._path.with_suffix(".new")
        new.write_text(f"{self._moved:+.0f}\n", encoding="ascii")
        new.replace(self._path)


def _environment(library: Path, path: Path) -> dict[str, str]:
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(path),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@functools.cache
def library() -> Path | None:
    """libfaketime, where there is one that works here."""
    found = importlib.util.find_spec("libfaketime")
    ours = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    places = [path for place in ours for path in place.glob("**/libfaketime.so.1")]
    places += Path("/").glob(_DEBIAN.lstrip("/"))
    with tempfile.TemporaryDirectory(prefix="sts-") as home:
        day = Path(home) / "clock"
        day.write_text("+86400\n", encoding="ascii")
        return next((path for path in places if _works(path, day)), None)


def _works(path: Path, day: Path) -> bool:
    done = subprocess.run(
        [*PYTHON, "-c", _PROBE, str(time.time())],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **_environment(path, day)},
        timeout=20,
    )
    return done.stdout.strip() == "True"
