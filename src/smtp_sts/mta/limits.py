"""How much each MTA takes of a reply: the one home of these limits. No I/O.

All of them were found with the MTA itself (`tests/real/test_limits.py` plays each and one more).
Beyond them Postfix defers, Sendmail cuts the list in the middle of a name, and Exim's delivery
process ends, for all recipients of a message, whoever they are: a stranger's policy must not do
that (law 4).

Promises: what is told of a policy is a part of its patterns, whole, and never none of them (laws 1
and 5): an MX host that only others of its patterns match is not used, and where there is none else
mail to that domain alone waits. Must not: make "no policy" of a policy that is too long.
"""

from __future__ import annotations

from typing import Final

#: Postfix: a reply of socketmap, bytes (before 3.10; later socketmap_max_reply_size has the same).
POSTFIX_REPLY: Final = 100_000
#: Postfix: a line of tcp_table, its line end among them, bytes (tcp_table(5)).
TCP_TABLE_LINE: Final = 4096
#: What is left of it for the list in `match=`, bytes.
TCP_TABLE_LIST: Final = TCP_TABLE_LINE - len("200 secure%20match=%20servername=hostname\n")
#: Sendmail 8.17 and 8.18: the list in `match=`, bytes; its macros and maps take no longer value.
SENDMAIL_LIST: Final = 255
#: Exim: the list of patterns, bytes, from which docs/exim.md makes one regular expression. Exim
#: 4.96 and 4.98 take up to 36 KB of it; but 4.98 compiles it anew for each address of each MX host
#: and keeps all of that: 34 KB an address, and twelve times the list. The number of addresses is a
#: stranger's choice, too.
EXIM_LIST: Final = 4096
#: By what an answer counts as: room for the list of patterns, bytes.
ROOM: Final = {
    "sts": SENDMAIL_LIST,
    "line": EXIM_LIST,
    "tcp-table": TCP_TABLE_LIST,
}


def size(patterns: tuple[str, ...]) -> int:
    """What the list of these patterns, joined by colons, has in bytes."""
    return sum(map(len, patterns)) + max(len(patterns) - 1, 0)


def fitting(patterns: tuple[str, ...], room: int) -> tuple[str, ...]:
    """The patterns whose list, joined by colons, has no more than `room` bytes.

    All of them, in their order, where they fit; else wildcards first, which name the most hosts,
    without those that a wildcard makes needless, and then in their order. None where none fits.
    """
    if size(patterns) <= room:
        return patterns
    wild = dict.fromkeys(pattern for pattern in patterns if pattern.startswith("*."))
    single = (
        pattern
        for pattern in patterns
        if pattern not in wild and f"*.{pattern.partition('.')[2]}" not in wild
    )
    told: list[str] = []
    room += 1  # the last one has no colon
    for pattern in (*wild, *single):
        if len(pattern) < room:
            room -= len(pattern) + 1
            told.append(pattern)
    return tuple(told)
