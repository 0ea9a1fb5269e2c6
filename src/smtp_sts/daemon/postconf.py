"""What the Postfix on this machine is told by its main.cf, asked of postconf(1).

Promises: no Postfix, one that cannot be read, or one that takes its time is no error: there is
nothing to be said of it then. Must not: change anything, or judge (`mta/postfix_fit.py`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from typing import Final

from smtp_sts.mta.postfix_fit import SETTINGS

#: postconf reads two files; what takes longer hangs (seconds).
PATIENCE: Final = 5.0
#: Where it lies, whatever $PATH says: users' often leaves these out.
_PLACES: Final = ("/usr/sbin", "/usr/local/sbin", "/sbin")


async def read() -> Mapping[str, str]:
    """The settings that were asked for, with `$name` filled in; empty where there is no Postfix."""
    program = shutil.which("postconf", path=os.pathsep.join((os.environ.get("PATH", ""), *_PLACES)))
    if program is None:
        return {}
    try:
        process = await asyncio.create_subprocess_exec(
            program, "-x", *SETTINGS,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
    except OSError:
        return {}
    try:
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return {}
    return parse(output.decode("utf-8", "replace"))


def parse(text: str) -> dict[str, str]:
    """`name = value` lines."""
    pairs = (line.partition(" = ") for line in text.splitlines())
    return {name.rstrip(" ="): value.strip() for name, _, value in pairs}
