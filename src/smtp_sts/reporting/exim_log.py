"""What Exim's main log says of its TLS sessions: with the log selectors tls_cipher and
tls_certificate_verified, which are on by default, and whichever others.

A delivery line tells of a session that carried mail, a deferral of one that did not. That one MX
host of several failed stands on a line of its own before, with the message's id but without the
domain. Such lines wait with the message: a deferral with the same reason takes them, and so does
the end of a message that went to one domain only. What cannot be told apart is counted as
unattributed, not guessed. A message that goes over a connection which brought another one before
belongs to that session, which is counted already (`[address]*`; Exim no longer knows how its
certificate was verified, and says CV=no).

Promises: text of a remote host is never taken for Exim's own: the expressions are anchored, and
nothing is read from behind DN= or C=, which strangers write. Memory is bounded. Must not: do I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final

from smtp_sts.dane.faults import FAULTS
from smtp_sts.reporting.envelopes import EXIM, bare
from smtp_sts.reporting.lines import DOMAIN, LOCAL_PART, STAMP, Clock, log_domain
from smtp_sts.reporting.outcome import Certificate, Outcome, Trouble
from smtp_sts.tlsrpt import AppliedPolicy
from smtp_sts.tlsrpt.names import clean, ip_address
from smtp_sts.tlsrpt.results import GENERAL_FAILURE

#: Messages that are remembered; of more, the oldest are let go.
MAX_MESSAGES: Final = 10_000
_MAX_TROUBLES: Final = 20
_MAX_HOSTS: Final = 100
#: Seconds between deferrals that may be of one session.
_ONE_SESSION: Final = 2.0

#: what syslog puts in front, where Exim logs to it; of a line that is cut, the first piece
_SYSLOG: Final = re.compile(
    STAMP + rb" [!-~]{1,255} exim[A-Za-z0-9_-]{0,30}(?:\[[0-9]{1,10}\])?: (?:\[1[/\\][0-9]+\] )?"
)
#: message id (of 4.97 and later too)
_ID: Final = rb"([0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-[0-9A-Za-z]{2,4}) "
#: time, zone, process, message id
_OWN: Final = re.compile(
    rb"([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?"
    rb"(?: ([+-][0-9]{4}))?(?: \[[0-9]+\])? " + _ID
)
#: the same where syslog_timestamp is off: no time, and so no zone
_BARE_ID: Final = re.compile(rb"()()(?:\[[0-9]+\] )?" + _ID)
#: A field that is passed over: `name=value`, or one of the words without a value. A value in <> is
#: an address, the sender's too, so what is quoted in it counts for nothing.
_BARE: Final = rb"(?:[^\s\"<]*[^\s\"<:])?"
_QUOTED: Final = rb"<(?:\"(?:[^\"\\]|\\.){0,255}\"|[^<>\"\s]){0,600}>"
_WORDS: Final = rb"TFO\*?|PRDR|K|L[*!]?"
_BEFORE: Final = (
    rb"(?: (?!H=)(?:[A-Za-z]{1,8}\*?=(?:" + _QUOTED + rb"|" + _BARE + rb")|" + _WORDS + rb")"
    rb"(?=[ :]|$))*"
)
_AFTER: Final = rb"((?: (?:[A-Za-z]{1,8}\*?=" + _BARE + rb"|" + _WORDS + rb")(?=[ :]|$))*)"
#: name, address, and a star where the connection was used before
_HOST: Final = rb"H=([A-Za-z0-9_.-]{1,255})(?: DS)? \[([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?(\*)?"
#: arrow, domain, host, the fields behind it, and why the delivery was put off
_DELIVERY: Final = re.compile(
    rb"(=>|>>|==|\*\*) (?:[^\s<>\"@]+ <)?" + LOCAL_PART + rb"@(" + DOMAIN + rb")>?"
    rb"(?: \([^()\"]{0,2000}\))?(?: <[^<>\s\"]*>)?" + _BEFORE + rb"(?: defer \(-?[0-9]+\))?"
    rb"(?: " + _HOST + _AFTER + rb")?(?:: (.*))?"
)
_CIPHER: Final = re.compile(rb" (?:X=\S|CV=)")
_VERIFIED: Final = re.compile(rb" CV=(yes|no|dane)(?= |$)")
_FAILED: Final = re.compile(_HOST + _AFTER + rb"(?: ([A-Z].*)|: (.*))")
#: A host that could not do TLS has the mail without.
_UNENCRYPTED: Final = re.compile(
    rb"(TLS session.*?)(?: failure)?: delivering unencrypted to (?:H=)?([A-Za-z0-9_.-]{1,255}) "
    rb"\[([0-9A-Fa-f:.]{2,45})\] \(not in hosts_require_tls\)"
)
_VERIFY: Final = re.compile(
    rb"\[([0-9A-Fa-f:.]{2,45})\] SSL verify error: "
    rb"(?:(certificate name mismatch)|depth=[0-9]+ error=([^=]{1,100}?) cert=)"
)
_NO_TLS: Final = b"a TLS session is required, but the server did not offer TLS support"
_NO_START: Final = b"a TLS session is required, but an attempt to start TLS failed"
_SESSION: Final = re.compile(rb"TLS session: ?(?:\(([^()]{1,80})\))?:? ?(.*)")
_DANE: Final = re.compile(rb"DANE error: (.*)")


#: The groups of `STAMP`: when a line was written.
_When = tuple[bytes | None, bytes | None, bytes | None]


class _Message:
    __slots__ = ("deferred", "domains", "evidence", "troubles", "unencrypted")

    def __init__(self) -> None:
        self.domains: set[str] = set()
        #: of hosts that failed: time, reason as it stands in the log, trouble
        self.troubles: list[tuple[float, bytes, Trouble]] = []
        #: by address, of hosts that have the mail without TLS since they could not do it
        self.unencrypted: dict[str, tuple[float, Trouble]] = {}
        #: what OpenSSL said of a host's certificate, by address
        self.evidence: dict[str, Trouble] = {}
        #: time, domain and reason of the last deferral
        self.deferred: tuple[float, str, bytes] = (0.0, "", b"")


class EximLog:
    """Takes lines, hands on outcomes. `own_senders` are addresses our reports are sent from."""

    def __init__(
        self, take: Callable[[Outcome], None], clock: Clock, own_senders: Collection[str] = ()
    ) -> None:
        self._take = take
        self._clock = clock
        self._own_senders = {address.lower().encode() for address in own_senders}
        self._own: dict[bytes, None] = {}
        self._messages: dict[bytes, _Message] = {}
        self.outcomes = 0
        #: delivery lines that cannot be read for certain
        self.unclear = 0
        #: lines whose time cannot be
        self.undated = 0
        #: deliveries in sessions without TLS
        self.plain = 0
        #: failures whose domain the log does not tell
        self.unattributed = 0
        #: messages over a session that was counted before
        self.reused = 0
        #: hosts that syslog's heads name; Exim's own log names none
        self.hosts: set[str] = set()
        #: lines of messages that were our own reports
        self.own = 0

    def line(self, line: bytes) -> None:
        """Take one line, without its end."""
        found = _OWN.match(line)
        when: _When
        if found is not None:
            when = (None, found[1], found[2])
        else:
            syslog = _by_syslog(line)
            if syslog is None and EXIM.match(line) is None:
                line = bare(line) or b""
                syslog = _by_syslog(line)
            if syslog is None:
                return
            when, found = syslog
            if len(self.hosts) < _MAX_HOSTS:
                self.hosts.add(line.partition(b" exim")[0].rpartition(b" ")[2].decode("ascii"))
        end = found.end()
        start = line[end : end + 3]
        message_id = found[3]
        if message_id in self._own:
            self.own += 1
        elif start in {b"=> ", b">> ", b"== ", b"** "}:
            self._delivery(when, message_id, line[end:])
        elif start.startswith(b"H="):
            self._host(when, message_id, line[end:])
        elif start.startswith(b"["):
            self._certificate(message_id, line[end:])
        elif start == b"TLS":
            self._unencrypted(when, message_id, line[end:])
        elif start == b"<= ":
            if line[end + 3 :].partition(b" ")[0].lower() in self._own_senders:
                if len(self._own) >= MAX_MESSAGES:
                    del self._own[next(iter(self._own))]
                self._own[message_id] = None
        elif start == b"Com" and line[end:].startswith(b"Completed"):
            self._completed(message_id)

    @property
    def waiting(self) -> int:
        """Failures of messages whose fate is not told yet."""
        return sum(len(m.troubles) + len(m.unencrypted) for m in self._messages.values())

    def finish(self) -> None:
        """No more lines come: count what still waits."""
        for message in self._messages.values():
            self._settle(message)
        self._messages.clear()

    def _message(self, message_id: bytes) -> _Message:
        message = self._messages.get(message_id)
        if message is None:
            if len(self._messages) >= MAX_MESSAGES:
                self._settle(self._messages.pop(next(iter(self._messages))))
            message = self._messages[message_id] = _Message()
        return message

    def _at(self, when: _When) -> float | None:
        at = self._clock.of(*when)
        if at is None:
            self.undated += 1
        return at

    def _certificate(self, message_id: bytes, text: bytes) -> None:
        found = _VERIFY.match(text)
        if found is None:
            return
        ip = ip_address(found[1].decode("ascii"))
        reason = found[3] or b""
        if found[2]:
            trouble = Trouble(FAULTS["certificate-name-mismatch"], receiving_ip=ip)
        elif b"expired" in reason or b"not yet valid" in reason:
            trouble = Trouble(FAULTS["certificate-expired"], receiving_ip=ip)
        else:
            trouble = Trouble(
                FAULTS["certificate-unknown-issuer"],
                receiving_ip=ip,
                failure_reason_code=_clean(reason),
            )
        evidence = self._message(message_id).evidence
        if len(evidence) < _MAX_TROUBLES:
            evidence.setdefault(ip, trouble)

    def _host(self, when: _When, message_id: bytes, text: bytes) -> None:
        """A host that was given up; the message goes on to the next, or is deferred."""
        found = _FAILED.match(text)
        if found is None:
            return
        reason = found[6] or found[5] or b""
        message = self._messages.get(message_id)
        trouble = _trouble(found[1], found[2], reason, message.evidence if message else {})
        if trouble is None:
            return
        at = self._at(when)
        if at is None:
            return
        troubles = self._message(message_id).troubles
        if len(troubles) >= _MAX_TROUBLES:
            self.unattributed += 1
        else:
            troubles.append((at, reason, trouble))

    def _unencrypted(self, when: _When, message_id: bytes, text: bytes) -> None:
        """A session that failed, though the mail goes out: the delivery names the domain."""
        found = _UNENCRYPTED.match(text)
        if found is None:
            return
        reason, host, ip = found.groups()
        message = self._message(message_id)
        trouble = _trouble(host, ip, reason, message.evidence)
        if trouble is None:
            trouble = Trouble(
                GENERAL_FAILURE,
                receiving_mx_hostname=log_domain(host),
                receiving_ip=ip_address(ip.decode("ascii")),
                failure_reason_code="TLS handshake failed",
            )
        at = self._at(when)
        if at is None:
            return
        if trouble.receiving_ip in message.unencrypted or (
            len(message.unencrypted) >= _MAX_TROUBLES
        ):
            self.unattributed += 1
        else:
            message.unencrypted[trouble.receiving_ip] = (at, trouble)

    def _delivery(self, when: _When, message_id: bytes, text: bytes) -> None:
        found = _DELIVERY.match(text)
        if found is None or (found[3] is None and b" H=" in text):
            # local deliveries may look like anything; those do not matter
            if b" H=" in text:
                self.unclear += 1
            return
        arrow, name, host, ip, star, fields, reason = found.groups()
        domain = log_domain(name)
        if arrow == b"==":
            self._deferred(when, message_id, domain, (host, ip, reason or b""))
            return
        if host is None:
            return
        if not domain:
            self.unclear += 1
            return
        message = self._messages.get(message_id)
        if message is not None:
            message.domains.add(domain)
        if arrow == b"**":
            return
        if star:
            self.reused += 1
            return
        address = ip_address(ip.decode("ascii"))
        if _CIPHER.search(fields) is None:
            failed = message.unencrypted.pop(address, None) if message is not None else None
            if failed is not None:
                self._fail(failed[0], domain, failed[1])
            self.plain += 1
            return
        at = self._at(when)
        if at is None:
            return
        verified = _VERIFIED.search(fields)
        trouble = message.evidence.pop(address, None) if message is not None else None
        self._good(at, domain, (log_domain(host), address), _tls(verified, trouble))

    def _good(self, at: float, domain: str, mx: tuple[str, str], tls: Certificate | None) -> None:
        """A session that carried mail; `tls` is None where DANE verified it."""
        host, ip = mx
        self.outcomes += 1
        self._take(
            Outcome(
                at=at,
                source="log",
                domain=domain,
                failed=False,
                policy=AppliedPolicy("tlsa", host or domain, (), (host,) if host else ())
                if tls is None
                else None,
                tls="verified" if tls is None else tls,
                mx_host=host,
                mx_ip=ip,
            )
        )

    def _deferred(
        self, when: _When, message_id: bytes, domain: str, put_off: tuple[bytes, bytes, bytes]
    ) -> None:
        host, ip, reason = put_off
        if not reason or not domain:
            return
        at = self._at(when)
        if at is None:
            return
        message = self._messages.get(message_id)
        own: list[tuple[float, bytes, Trouble]] = []
        if message is not None:
            message.domains.add(domain)
            own = [t for t in message.troubles if _same(t[1], reason)]
            message.troubles = [t for t in message.troubles if not _same(t[1], reason)]
        if not own and host is not None:
            # one host only, and no line of its own
            trouble = _trouble(host, ip, reason, message.evidence if message else {})
            if trouble is not None:
                own = [(at, reason, trouble)]
        if not own:
            return
        # each recipient of a session has a line, one right after the other
        message = self._message(message_id)
        message.domains.add(domain)
        last_at, *last = message.deferred
        message.deferred = (at, domain, reason)
        if last == [domain, reason] and at - last_at < _ONE_SESSION:
            return
        for moment, _, trouble in own:
            self._fail(moment, domain, trouble)

    def _completed(self, message_id: bytes) -> None:
        message = self._messages.pop(message_id, None)
        if message is not None:
            self._settle(message)

    def _settle(self, message: _Message) -> None:
        failed = [(at, trouble) for at, _, trouble in message.troubles]
        failed += message.unencrypted.values()
        if len(message.domains) != 1:
            self.unattributed += len(failed)
            return
        (domain,) = message.domains
        for at, trouble in failed:
            self._fail(at, domain, trouble)

    def _fail(self, at: float, domain: str, trouble: Trouble) -> None:
        self.outcomes += 1
        self._take(
            Outcome(
                at=at,
                source="log",
                domain=domain,
                failed=True,
                troubles=(trouble,),
                mx_host=trouble.receiving_mx_hostname,
                mx_ip=trouble.receiving_ip,
            )
        )


def _by_syslog(line: bytes) -> tuple[_When, re.Match[bytes]] | None:
    """When Exim wrote a line, by syslog or by itself within, and its message id; None for lines
    without."""
    syslog = _SYSLOG.match(line)
    if syslog is None:
        return None
    stamp = (syslog[1], syslog[2], syslog[3])
    found = _OWN.match(line, syslog.end())
    if found is None:
        found = _BARE_ID.match(line, syslog.end())
        return None if found is None else (stamp, found)
    # a time with a zone is the better one, wherever it stands
    if found[2] is None and syslog[3] is not None:
        return stamp, found
    return (None, found[1], found[2]), found


def _tls(verified: re.Match[bytes] | None, trouble: Trouble | None) -> Certificate | None:
    """What CV= means, with what was said of the certificate before; None for DANE."""
    if verified is None:  # tls_certificate_verified is off
        return ""
    if verified[1] == b"dane":
        return None
    if verified[1] == b"yes":
        return "verified"
    matched = trouble is not None and trouble.result_type == "certificate-host-mismatch"
    return "trusted" if matched else "untrusted"


def _trouble(host: bytes, ip: bytes, reason: bytes, evidence: dict[str, Trouble]) -> Trouble | None:
    """What a reason of Exim's means; None where it has nothing to do with TLS."""
    address = ip_address(ip.decode("ascii"))
    result, why = "", ""
    if reason.startswith(_NO_TLS):
        result = "starttls-not-supported"
    elif reason.startswith(_NO_START):
        result = GENERAL_FAILURE
        why = "TLS handshake failed"
    elif found := _DANE.match(reason):
        result, why = FAULTS["tlsa-unusable"], _clean(found[1])
        if b"not DNSSEC" in found[1]:
            result = FAULTS["tlsa-not-found"]
        elif b"tlsa lookup" in found[1]:
            result = FAULTS["tlsa-lookup-failed"]
    elif found := _SESSION.match(reason):
        stage = found[1] or b""
        result, why = GENERAL_FAILURE, _clean(stage + b": " + found[2] if stage else found[2])
        if stage.startswith(b"certificate verification failed"):
            # With GnuTLS, Exim has a reason for all but a name that does not match (seen: 4.96).
            result = "certificate-not-trusted" if found[2] else "certificate-host-mismatch"
            why = _clean(found[2])
            known = evidence.pop(address, None)
            if known is not None:
                result, why = known.result_type, known.failure_reason_code
    if not result:
        return None
    return Trouble(
        result,
        receiving_mx_hostname=log_domain(host),
        receiving_ip=address,
        failure_reason_code=why,
    )


def _same(first: bytes, second: bytes) -> bool:
    """Whether a deferral gives the reason that a host's line gave."""
    return first.startswith(second) or second.startswith(first)


def _clean(text: bytes) -> str:
    return clean(text.decode("utf-8", "replace"), 256)
