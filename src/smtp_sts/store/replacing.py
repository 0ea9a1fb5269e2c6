"""Which policy a store keeps of two of the same domain, as a condition of its own statement.

So it holds whoever writes, in whatever order. Promises (DESIGN, law 1): a later fetch is not
replaced by an earlier one; and a policy of the first draft that was proven is not replaced by one
that was not, nor an unproven one that an MX host has met by one that none has, however late they
come, before it expires (draft-margolis-smtp-sts-00 sections 3.3 and 3.4). Understood by SQLite and
PostgreSQL alike. Must not: read more of a policy than that.
"""

from __future__ import annotations

from typing import Final

#: Two clocks of a shared store, converted, differ by no more for the same fetch (seconds).
SAME_FETCH: Final = 0.001


def _rank(row: str) -> str:
    # As `resolver/stored.py` writes them. Within the record's text quotes are escaped, so that
    # no record can say this of itself.
    return (
        f"(CASE WHEN {row}.body LIKE '%\"authenticated\":true%' THEN 2 ELSE 0 END"
        f" + CASE WHEN {row}.body LIKE '%\"applied\":true%' THEN 1 ELSE 0 END)"
    )


def replaces(latest: str) -> str:
    """Where `excluded` takes the place of what is kept.

    `latest` is SQL for the time that a fetch of a right clock cannot lie behind: one from the
    future keeps no later one out.
    """
    old, new = _rank("policies"), _rank("excluded")
    return f"""
    (policies.fetched_at <= excluded.fetched_at OR policies.fetched_at > {latest})
    AND (substr(policies.body, 1, 1) <> '{{'
      OR excluded.fetched_at >= policies.expires_at
      OR {new} >= {old}
      OR ({new} >= 2 AND NOT (policies.policy_id = excluded.policy_id
        AND excluded.fetched_at - policies.fetched_at < {SAME_FETCH})))"""
