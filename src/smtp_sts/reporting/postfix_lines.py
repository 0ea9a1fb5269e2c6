"""What the lines of Postfix's smtp(8) and qmgr(8) look like, of any version. No state, no I/O.

Promises: every pattern is anchored at the start of a line's text, and none reads a field from
behind text that a stranger wrote.
"""

from __future__ import annotations

import re
from typing import Final

from smtp_sts.dane.faults import FAULTS
from smtp_sts.reporting.lines import DOMAIN, LOCAL_PART, STAMP
from smtp_sts.tlsrpt.results import GENERAL_FAILURE

#: stamp, host, the instance's name (syslog_name), service and process
HEAD: Final = re.compile(
    STAMP + rb" ([!-~]{1,255} [A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+){0,4}/smtp\[[0-9]{1,10}\]): "
)
STAMPED: Final = re.compile(STAMP + rb" ")
QMGR: Final = re.compile(
    STAMP + rb" [!-~]{1,255} [A-Za-z0-9_./-]+/n?qmgr\[[0-9]+\]: ([0-9A-Za-z]+): from=<([^>]*)>, "
)
_HOST: Final = rb"([A-Za-z0-9_.-]{1,255})\[([0-9A-Fa-f:.]{2,45})\]"
ESTABLISHED: Final = re.compile(
    rb"(Anonymous|Untrusted|Trusted|Verified) TLS connection established to "
    + _HOST
    + rb":[0-9]{1,5}: "
)
#: `name=value` that this or a later Postfix writes between what we look for
_FIELD: Final = rb"[a-z_]{1,40}=[^,()<>\"\s]{0,255}, "
RECIPIENT: Final = re.compile(
    rb"([0-9A-Za-z]+): to=<" + LOCAL_PART + rb"@(" + DOMAIN + rb")>, "
    rb"(?:orig_to=<" + LOCAL_PART + rb"?(?:@" + DOMAIN + rb")?>, )?"
    rb"(?:(?!relay=)" + _FIELD + rb")*"
    rb"relay=(?:none|" + _HOST + rb":([0-9]{1,5})|[^\s,>]{1,255}), "
    rb"((?:" + _FIELD + rb")*)status=([A-Za-z]+) \((.*)\)"
)
DELAYS: Final = re.compile(rb"delays=[0-9.]+/[0-9.]+/([0-9.]+)/([0-9.]+), ")
#: Postfix 3.11: `tls=` the security level, what it came down to, and "?" where that is not known;
#: "!" where the level was not met (postconf(5), smtp_log_tls_feature_status)
TLS: Final = re.compile(rb"(?:^| )tls=(!?)([a-z-]+)(?::([a-z-]+))?(\?)?(?:/\S*)?, ")
#: levels at which a certificate was verified, where they were met
VERIFYING: Final = {b"secure", b"verify", b"fingerprint", b"dane", b"dane-only", b"halfdane"}
#: what Postfix says of mail that a host has taken
TAKEN: Final = {b"sent", b"deliverable", b"relayed"}
GIVEN_UP: Final = re.compile(rb"([0-9A-Za-z]+): (.*)")
TLSRPT: Final = re.compile(
    rb"TLSRPT: status=(success|failure), domain=(" + DOMAIN + rb"), receiving_mx=" + _HOST
    + rb"(?:, failure_type=([a-z_-]+)(?:, failure_reason=(.*))?)?"
)  # fmt: skip
UNVERIFIED: Final = re.compile(
    rb"(?:[A-Za-z]+ )?certificate verification failed for " + _HOST + rb":[0-9]{1,5}: (.*)"
)
HANDSHAKE: Final = re.compile(rb"SSL_connect error to " + _HOST + rb":[0-9]{1,5}: ")
NOT_OFFERED: Final = re.compile(
    rb"TLS is required, but (?:was not offered by host " + _HOST + rb"$|host " + _HOST
    + rb" refused to start TLS: )"
)  # fmt: skip
#: Postfix's own reasons for giving a delivery up: whole text -> result type and reason
REASONS: Final = {
    b"Server certificate not verified": ("", ""),
    b"Server certificate not trusted": ("certificate-not-trusted", ""),
    b"Cannot start TLS: handshake failure": (GENERAL_FAILURE, "TLS handshake failed"),
    b"non DNSSEC destination": ("dane-required", "destination is not signed"),
    b"no TLSA records found": (FAULTS["tlsa-not-found"], "no TLSA records"),
    b"all TLSA records unusable": (FAULTS["tlsa-unusable"], "all TLSA records unusable"),
}
TLSA_LOOKUP: Final = re.compile(rb"TLSA lookup error for [A-Za-z0-9_.-]+:[0-9]+$")
LOSS: Final = b"Could not report TLS handshake result to tlsrpt library"
