"""What happened to one TLS session under one policy: what every source gives.

Promises: an `Outcome` holds names, addresses and text that may stand in a report as they are; what
a remote host said is cleaned and shortened before it gets here (law 5). No I/O.
The structs are without gc, as are those of datagrams and reports: they cannot form cycles, and the
collector's pauses would cost datagrams.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from smtp_sts.tlsrpt import AppliedPolicy

#: Which source saw it, so that none counts what another has counted.
Source = Literal["datagram", "log", "own"]


#: Postfix's words: chain and name good; chain good, name not; no good chain; none to be looked at.
Certificate = Literal["", "verified", "trusted", "untrusted", "anonymous"]


class Trouble(msgspec.Struct, frozen=True, gc=False):
    """How a session failed: the fields of a report's failure-details but for the count."""

    result_type: str
    sending_mta_ip: str = ""
    receiving_mx_hostname: str = ""
    receiving_mx_helo: str = ""
    receiving_ip: str = ""
    additional_information: str = ""
    failure_reason_code: str = ""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """One session under one policy.

    `at` is seconds since the epoch. `domain` is the one whose `_smtp._tls` record counts, `record`
    that record's text, "" where the source does not know it. `policy` is None where the source
    knows none: it is then to be matched with what the MTA was told. `troubles` is empty where the
    session failed for a reason that the source could not tell. `tls` is what a log says of the
    certificate, "" where the source gave its verdict on the policy itself; `mx_host`, `mx_ip` and
    `mx_port` are of the MX host, as far as known.
    """

    at: float
    source: Source
    domain: str
    failed: bool
    policy: AppliedPolicy | None = None
    troubles: tuple[Trouble, ...] = ()
    record: str = ""
    tls: Certificate = ""
    mx_host: str = ""
    mx_ip: str = ""
    #: 0 where the source does not tell
    mx_port: int = 0
