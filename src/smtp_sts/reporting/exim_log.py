"""What Exim's main log says of its TLS sessions (log selectors tls_cipher and
tls_certificate_verified, which are on by default).

A delivery line tells of a session that carried mail, a deferral of one that did not. That one MX
host of several failed stands on a line of its own before, with the message's id but without the
domain. Such lines wait with the message: a deferral with the same reason takes them, and so does
the end of a message that went to one domain only. What cannot be told apart is counted as
unattributed, not guessed.

Promises: text of a remote host is never taken for Exim's own: the expressions are anchored, and
nothing is read from behind DN= or C=, which strangers write. Memory is bounded. Must not: do I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final

from smtp_sts.reporting.lines import STAMP, Clock
from smtp_sts.reporting.outcome import Outcome, Trouble
from smtp_sts.tlsrpt import AppliedPolicy
from smtp_sts.tlsrpt.names import clean, domain_name, ip_address
from smtp_sts.tlsrpt.results import GENERAL_FAILURE

#: Messages that are remembered; of more, the oldest are let go.
MAX_MESSAGES: Final = 10_000
_MAX_TROUBLES: Final = 20
#: Seconds between deferrals that may be of one session.
_ONE_SESSION: Final = 2.0

#: what syslog puts in front, where Exim logs to it
_SYSLOG: Final = re.compile(STAMP + rb" [!-~]{1,255} exim[0-9]?\[[0-9]{1,10}\]: ")
#: time, zone, process, message id (of 4.97 and later too)
_HEAD: Final = re.compile(
    rb"([0-9]{4}-[0-9]{2}-[0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?"
    rb"(?: ([+-][0-9]{4}))?(?: \[[0-9]+\])? "
    rb"([0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-[0-9A-Za-z]{2,4}) "
)
_HOST: Final = rb"H=([A-Za-z0-9_.-]{1,255}) \[([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?"
_LOCAL: Final = rb'(?:[^"<>@\s]{1,255}|"(?:[^"\\]|\\.){0,255}")'
_ADDRESS: Final = _LOCAL + rb"@([A-Za-z0-9_.-]{1,255})"
#: arrow, address, original address, router, transport; then plain fields up to the first quote
_DELIVERY: Final = re.compile(
    rb"(=>|->|==|\*\*) (?:[^\s<>\"@]+ <)?" + _ADDRESS + rb">?(?: <[^<>\s\"]*>)?"
    rb"(?: (?:F|P)=<[^<>\s\"]*>)? R=[A-Za-z0-9_]+ T=[A-Za-z0-9_]+((?: [^\"]*)?)"
)
_REMOTE: Final = re.compile(rb" (?:S=[0-9]+ )?" + _HOST + rb"(?= |$)")
_CIPHER: Final = re.compile(
    rb"(?: I=\[[^\]\s]*\](?::[0-9]+)?)?(?: TFO\*?)? X=[!-~]+ CV=(yes|no|dane)\b"
)
_DEFER: Final = re.compile(rb" defer \(-?[0-9]+\)(?: " + _HOST + rb")?: (.*)")
_FAILED: Final = re.compile(_HOST + rb"(?: ([A-Z].*)|: (.*))")
_VERIFY: Final = re.compile(
    rb"\[([0-9A-Fa-f:.]{2,45})\] SSL verify error: "
    rb"(?:(certificate name mismatch)|depth=[0-9]+ error=([^=]{1,100}?) cert=)"
)
_NO_TLS: Final = b"a TLS session is required, but the server did not offer TLS support"
_NO_START: Final = b"a TLS session is required, but an attempt to start TLS failed"
_SESSION: Final = re.compile(rb"TLS session: ?(?:\(([^()]{1,80})\))?:? ?(.*)")
_DANE: Final = re.compile(rb"DANE error: (.*)")


class _Message:
    __slots__ = ("deferred", "domains", "evidence", "troubles")

    def __init__(self) -> None:
        self.domains: set[str] = set()
        #: of hosts that failed: time, reason as it stands in the log, trouble
        self.troubles: list[tuple[float, bytes, Trouble]] = []
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
        #: lines of messages that were our own reports
        self.own = 0

    def line(self, line: bytes) -> None:
        """Take one line, without its end."""
        head = _HEAD.match(line)
        if head is None:
            syslog = _SYSLOG.match(line)
            head = _HEAD.match(line, syslog.end()) if syslog else None
            if head is None:
                return
        end = head.end()
        start = line[end : end + 3]
        message_id = head[4]
        if message_id in self._own:
            self.own += 1
        elif start in {b"=> ", b"== ", b"** "}:
            self._delivery(head, message_id, line[end:])
        elif start.startswith(b"H="):
            self._host(head, message_id, line[end:])
        elif start.startswith(b"["):
            self._certificate(message_id, line[end:])
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
        return sum(len(message.troubles) for message in self._messages.values())

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

    def _at(self, head: re.Match[bytes]) -> float | None:
        at = self._clock.iso(head[1] + b"T" + head[2], head[3] or b"")
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
            trouble = Trouble("certificate-host-mismatch", receiving_ip=ip)
        elif b"expired" in reason or b"not yet valid" in reason:
            trouble = Trouble("certificate-expired", receiving_ip=ip)
        else:
            trouble = Trouble(
                "certificate-not-trusted", receiving_ip=ip, failure_reason_code=_clean(reason)
            )
        evidence = self._message(message_id).evidence
        if len(evidence) < _MAX_TROUBLES:
            evidence.setdefault(ip, trouble)

    def _host(self, head: re.Match[bytes], message_id: bytes, text: bytes) -> None:
        """A host that was given up; the message goes on to the next, or is deferred."""
        found = _FAILED.match(text)
        if found is None:
            return
        reason = found[4] or found[3] or b""
        evidence = self._messages.get(message_id)
        trouble = _trouble(found[1], found[2], reason, evidence.evidence if evidence else {})
        if trouble is None:
            return
        at = self._at(head)
        if at is None:
            return
        troubles = self._message(message_id).troubles
        if len(troubles) >= _MAX_TROUBLES:
            self.unattributed += 1
        else:
            troubles.append((at, reason, trouble))

    def _delivery(self, head: re.Match[bytes], message_id: bytes, text: bytes) -> None:
        found = _DELIVERY.match(text)
        if found is None:
            # local deliveries have no R= of a remote transport's form; those do not matter
            if b" H=" in text:
                self.unclear += 1
            return
        domain = domain_name(found[2].decode("ascii"))
        if found[1] == b"==":
            self._deferred(head, message_id, domain, found[3])
            return
        remote = _REMOTE.match(found[3])
        if remote is None or not domain:
            return
        message = self._messages.get(message_id)
        if message is not None:
            message.domains.add(domain)
        if found[1] == b"**":
            return
        cipher = _CIPHER.match(found[3], remote.end())
        if cipher is None:
            self.plain += 1
            return
        at = self._at(head)
        if at is None:
            return
        host, ip = domain_name(remote[1].decode("ascii")), ip_address(remote[2].decode("ascii"))
        trouble = message.evidence.pop(ip, None) if message is not None else None
        dane = cipher[1] == b"dane"
        self.outcomes += 1
        self._take(
            Outcome(
                at=at,
                source="log",
                domain=domain,
                failed=False,
                policy=AppliedPolicy("tlsa", host or domain, (), (host,) if host else ())
                if dane
                else None,
                tls="verified"
                if dane or cipher[1] == b"yes"
                else "trusted"
                if trouble is not None and trouble.result_type == "certificate-host-mismatch"
                else "untrusted",
                mx_host=host,
                mx_ip=ip,
            )
        )

    def _deferred(self, head: re.Match[bytes], message_id: bytes, domain: str, rest: bytes) -> None:
        found = _DEFER.match(rest)
        if found is None or not domain:
            return
        reason = found[3]
        at = self._at(head)
        if at is None:
            return
        message = self._messages.get(message_id)
        own: list[tuple[float, bytes, Trouble]] = []
        if message is not None:
            message.domains.add(domain)
            own = [t for t in message.troubles if _same(t[1], reason)]
            message.troubles = [t for t in message.troubles if not _same(t[1], reason)]
        if not own and found[1] is not None:
            # one host only, and no line of its own
            trouble = _trouble(found[1], found[2], reason, message.evidence if message else {})
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
        for when, _, trouble in own:
            self._fail(when, domain, trouble)

    def _completed(self, message_id: bytes) -> None:
        message = self._messages.pop(message_id, None)
        if message is not None:
            self._settle(message)

    def _settle(self, message: _Message) -> None:
        if len(message.domains) != 1:
            self.unattributed += len(message.troubles)
            return
        (domain,) = message.domains
        for at, _, trouble in message.troubles:
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
        result, why = "tlsa-invalid", _clean(found[1])
        if b"not DNSSEC" in found[1]:
            result = "dane-required"
        elif b"tlsa lookup" in found[1]:
            result = "dnssec-invalid"
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
        receiving_mx_hostname=domain_name(host.decode("ascii")),
        receiving_ip=address,
        failure_reason_code=why,
    )


def _same(first: bytes, second: bytes) -> bool:
    """Whether a deferral gives the reason that a host's line gave."""
    return first.startswith(second) or second.startswith(first)


def _clean(text: bytes) -> str:
    return clean(text.decode("utf-8", "replace"), 256)
