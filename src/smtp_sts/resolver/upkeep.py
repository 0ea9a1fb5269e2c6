"""How the upkeep of a domain's policy goes, as an operator asks for it. No I/O, and no decisions.

Times are seconds since the epoch, 0 for never. What is told here is known to one process and not
kept on disk: after a restart nothing is known of the failures before it.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Upkeep(msgspec.Struct, frozen=True):
    """What is known of a domain beside its policy.

    `next_check`: when its record is asked for again; `retry_at`: its policy is not fetched before;
    `failures`: fetches in a row that have failed; `failed_at`, `failure` (a reason slug) and
    `detail`: the last look that found no policy.
    """

    used_at: float = 0.0
    next_check: float = 0.0
    retry_at: float = 0.0
    failures: int = 0
    failed_at: float = 0.0
    failure: str = ""
    detail: str = ""


class Renewal(msgspec.Struct, frozen=True):
    """What came of fetching a policy at an operator's word.

    `waits`: a fetch has failed a short time ago, and the next one waits until `retry_at` (RFC 8461
    section 3.3); `failed`: no policy was found, for `reason` (a slug) and `detail`; `overloaded`:
    too many discoveries are under way.
    """

    result: Literal["fetched", "failed", "waits", "overloaded"]
    reason: str = ""
    detail: str = ""
    retry_at: float = 0.0
