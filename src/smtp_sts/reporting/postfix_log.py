"""What the log of a Postfix of any version says of its TLS sessions (smtp_tls_loglevel >= 1).

The lines of one delivery come from one smtp(8) process, in this order: sessions as they are set up,
why one was given up, and a line for each recipient that names the domain. So sessions wait with
their process until its next recipient line.

Promises: a session is counted once, whatever number of recipients and of lines it has. Text of a
remote host is never taken for Postfix's own: every expression here is anchored at the start of the
line, and no field is read from behind text that a stranger wrote. Lines about TLS that cannot be
read for certain are counted as unclear. Memory is bounded. Must not: do I/O.
What a log lacks: the next hop, where mail goes to a relay host (the recipient's domain is taken);
the sending address; the EHLO name; sessions without TLS are counted as `plain` and no more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final, cast

from smtp_sts.reporting.lines import STAMP, Clock
from smtp_sts.reporting.outcome import Certificate, Outcome, Trouble
from smtp_sts.tlsrpt.names import clean, domain_name, ip_address
from smtp_sts.tlsrpt.results import GENERAL_FAILURE, RESULTS

#: Processes and queue ids that are remembered; of more, the oldest are let go.
MAX_PROCESSES: Final = 10_000
#: MX hosts that one delivery tries, at most (Postfix: smtp_mx_session_limit, 2).
_MAX_SESSIONS: Final = 20

#: stamp, host, the instance's name (syslog_name), service and process
_HEAD: Final = re.compile(
    STAMP + rb" ([!-~]{1,255} [A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+){0,4}/smtp\[[0-9]{1,10}\]): "
)
_QMGR: Final = re.compile(
    STAMP + rb" [!-~]{1,255} [A-Za-z0-9_./-]+/n?qmgr\[[0-9]+\]: ([0-9A-Za-z]+): from=<([^>]*)>, "
)
_HOST: Final = rb"([A-Za-z0-9_.-]{1,255})\[([0-9A-Fa-f:.]{2,45})\]"
_ESTABLISHED: Final = re.compile(
    rb"(Anonymous|Untrusted|Trusted|Verified) TLS connection established to "
    + _HOST
    + rb":[0-9]{1,5}: "
)
_LOCAL: Final = rb'(?:[^"<>@\s]{1,255}|"(?:[^"\\]|\\.){0,255}")'
_DOMAIN: Final = rb"[A-Za-z0-9_.-]{1,255}"
_RECIPIENT: Final = re.compile(
    rb"([0-9A-Za-z]+): to=<" + _LOCAL + rb"@(" + _DOMAIN + rb")>, "
    rb"(?:orig_to=<" + _LOCAL + rb"?(?:@" + _DOMAIN + rb")?>, )?"
    rb"relay=(?:none|" + _HOST + rb":[0-9]{1,5}|[^\s,>]{1,255}), (conn_use=[0-9]+, )?"
    rb"delay=[0-9.]+, delays=[0-9./]+, dsn=[0-9]\.[0-9]+\.[0-9]+, status=([a-z]+) \((.*)\)"
)
_GIVEN_UP: Final = re.compile(rb"([0-9A-Za-z]+): (.*)")
_TLSRPT: Final = re.compile(
    rb"TLSRPT: status=(success|failure), domain=(" + _DOMAIN + rb"), receiving_mx=" + _HOST
    + rb"(?:, failure_type=([a-z_-]+)(?:, failure_reason=(.*))?)?"
)  # fmt: skip
_UNVERIFIED: Final = re.compile(
    rb"(?:[A-Za-z]+ )?certificate verification failed for " + _HOST + rb":[0-9]{1,5}: (.*)"
)
_HANDSHAKE: Final = re.compile(rb"SSL_connect error to " + _HOST + rb":[0-9]{1,5}: ")
_NOT_OFFERED: Final = re.compile(
    rb"TLS is required, but (?:was not offered by host " + _HOST + rb"$|host " + _HOST
    + rb" refused to start TLS: )"
)  # fmt: skip
#: Postfix's own reasons for giving a delivery up: whole text -> result type and reason
_REASONS: Final = {
    b"Server certificate not verified": ("", ""),
    b"Server certificate not trusted": ("certificate-not-trusted", ""),
    b"Cannot start TLS: handshake failure": (GENERAL_FAILURE, "TLS handshake failed"),
    b"non DNSSEC destination": ("dane-required", "destination is not signed"),
    b"no TLSA records found": ("dane-required", "no TLSA records"),
    b"all TLSA records unusable": ("tlsa-invalid", "all TLSA records unusable"),
}
_TLSA_LOOKUP: Final = re.compile(rb"TLSA lookup error for [A-Za-z0-9_.-]+:[0-9]+$")
_LOSS: Final = b"Could not report TLS handshake result to tlsrpt library"


class _Session:
    __slots__ = ("at", "domain", "evidence", "host", "ip", "reason", "result", "success", "tls")

    def __init__(self, at: float, host: str, ip: str) -> None:
        self.at = at
        self.host = host
        self.ip = ip
        self.tls: Certificate = ""
        self.result = ""
        self.reason = ""
        self.evidence = b""
        self.domain = ""
        self.success = False


class _Process:
    __slots__ = ("delivery", "sessions")

    def __init__(self) -> None:
        self.sessions: list[_Session] = []
        #: queue id and domain of the last recipient line
        self.delivery = (b"", b"")


class PostfixLog:
    """Takes lines, hands on outcomes. `own_senders` are addresses our reports are sent from."""

    def __init__(
        self, take: Callable[[Outcome], None], clock: Clock, own_senders: Collection[str] = ()
    ) -> None:
        self._take = take
        self._clock = clock
        self._own_senders = {address.lower().encode() for address in own_senders}
        self._own: dict[bytes, None] = {}
        self._processes: dict[bytes, _Process] = {}
        self.outcomes = 0
        #: recipient lines that cannot be read for certain
        self.unclear = 0
        #: lines whose time cannot be
        self.undated = 0
        #: deliveries in sessions without TLS
        self.plain = 0
        #: sessions that no recipient line ever belonged to
        self.unfinished = 0
        #: sessions that brought our own reports
        self.own = 0
        #: datagrams that Postfix says it could not send
        self.lost_datagrams = 0

    def line(self, line: bytes) -> None:
        """Take one line, without its end."""
        if b"/smtp[" not in line:
            if self._own_senders and b"qmgr[" in line:
                self._sender(line)
            return
        head = _HEAD.match(line)
        if head is None:
            return
        text = line[head.end() :]
        # The most frequent first; each of these stands where no remote text can.
        if text.find(b": to=<", 0, 24) > 0:
            self._recipient(head, text)
        elif text.find(b" TLS connection established to ", 0, 48) > 0:
            if found := _ESTABLISHED.match(text):
                session = self._session(head, found[2], found[3], new=True)
                if session is not None:
                    session.tls = cast(Certificate, found[1].decode().lower())
        elif text.startswith(b"TLSRPT: "):
            self._tlsrpt(head, text)
        elif text.find(b"certificate verification failed for ", 0, 64) >= 0:
            found = _UNVERIFIED.match(text)
            if found and (session := self._session(head, found[1], found[2])):
                session.evidence = found[3]
        elif text.startswith(b"SSL_connect error to "):
            found = _HANDSHAKE.match(text)
            if found and (session := self._session(head, found[1], found[2], new=True)):
                session.result, session.reason = GENERAL_FAILURE, "TLS handshake failed"
        elif text.startswith((b"warning: " + _LOSS, _LOSS)):
            self.lost_datagrams += 1
        elif found := _GIVEN_UP.match(text):
            self._given_up(head, found[2])

    @property
    def waiting(self) -> int:
        """Sessions whose recipient is not told yet."""
        return sum(len(process.sessions) for process in self._processes.values())

    def finish(self) -> None:
        """No more lines come: count what still waits."""
        self.unfinished += sum(len(p.sessions) for p in self._processes.values())
        self._processes.clear()

    def _process(self, head: re.Match[bytes]) -> _Process:
        name = head[4]
        process = self._processes.get(name)
        if process is None:
            if len(self._processes) >= MAX_PROCESSES:
                oldest = self._processes.pop(next(iter(self._processes)))
                self.unfinished += len(oldest.sessions)
            process = self._processes[name] = _Process()
        return process

    def _at(self, head: re.Match[bytes]) -> float | None:
        stamp = head[1]
        at = self._clock.iso(head[2], head[3] or b"") if stamp is None else self._clock.bsd(stamp)
        if at is None:
            self.undated += 1
        return at

    def _session(
        self, head: re.Match[bytes], host: bytes, ip: bytes, *, new: bool = False
    ) -> _Session | None:
        """The session that the process has with a host; None where its line has no time.

        What is told of a certificate, even that it failed, comes before the session is said to be
        established.
        """
        process = self._process(head)
        address = ip_address(ip.decode("ascii"))
        if process.sessions:
            last = process.sessions[-1]
            if last.ip == address and not (new and last.tls):
                return last
        at = self._at(head)
        if at is None:
            return None
        session = _Session(at, domain_name(host.decode("ascii")), address)
        if len(process.sessions) >= _MAX_SESSIONS:
            self.unfinished += 1
            process.sessions.pop(0)
        process.sessions.append(session)
        return session

    def _tlsrpt(self, head: re.Match[bytes], text: bytes) -> None:
        found = _TLSRPT.match(text)
        if found is None:
            self.unclear += 1
            return
        session = self._session(head, found[3], found[4])
        if session is None:
            return
        session.domain = domain_name(found[2].decode("ascii"))
        if found[1] == b"success":
            session.success = True
            return
        name = (found[5] or b"").decode("ascii").replace("_", "-")
        session.result = name if name in RESULTS else GENERAL_FAILURE
        reason = _clean(found[6] or b"")
        session.reason = reason if name in RESULTS else reason or name

    def _given_up(self, head: re.Match[bytes], reason: bytes) -> None:
        """Why one MX host was given up for the next, or a recipient's delivery."""
        if found := _NOT_OFFERED.match(reason):
            session = self._session(head, found[1] or found[3], found[2] or found[4])
            if session is not None and not session.result:
                session.result = "starttls-not-supported"
            return
        known = _REASONS.get(reason)
        if known is None and _TLSA_LOOKUP.match(reason):
            known = ("dnssec-invalid", "TLSA lookup failed")
        process = self._processes.get(head[4])
        if known is None or process is None or not process.sessions:
            return
        session = process.sessions[-1]
        if not session.result:
            session.result, session.reason = known if known[0] else _unverified(session)

    def _recipient(self, head: re.Match[bytes], text: bytes) -> None:
        found = _RECIPIENT.fullmatch(text)
        # An older Postfix does not quote local parts: one that holds ">, relay=" could tell tales.
        if found is None or b">, relay=" in found[7] or b">, orig_to=" in found[7]:
            self.unclear += 1
            self._drop(head)
            return
        queue_id, domain, host, ip, reused, status, reason = found.groups()
        process = self._process(head)
        delivery = (queue_id, domain)
        again, process.delivery = process.delivery == delivery, delivery
        if status != b"sent" and not again:
            if not process.sessions and host is not None and not reused:
                # refused before there was a TLS session: what counts is the reason
                self._refused(head, process, host, ip, reason)
            else:
                self._given_up(head, reason)
        if not process.sessions:
            if status == b"sent" and not again and not reused and host is not None:
                self.plain += 1
            return
        sessions, process.sessions = process.sessions, []
        if queue_id in self._own:
            self.own += len(sessions)
            return
        name = domain_name(domain.decode("ascii"))
        for session in sessions:
            self._emit(session, name)

    def _refused(
        self, head: re.Match[bytes], process: _Process, host: bytes, ip: bytes, reason: bytes
    ) -> None:
        if reason in _REASONS or _TLSA_LOOKUP.match(reason):
            self._session(head, host, ip)
        self._given_up(head, reason)

    def _drop(self, head: re.Match[bytes]) -> None:
        process = self._processes.get(head[4])
        if process is not None:
            self.unfinished += len(process.sessions)
            process.sessions.clear()

    def _emit(self, session: _Session, domain: str) -> None:
        domain = session.domain or domain
        if not domain or not (session.tls or session.result or session.success):
            self.unclear += 1
            return
        failed = bool(session.result)
        self.outcomes += 1
        self._take(
            Outcome(
                at=session.at,
                source="log",
                domain=domain,
                failed=failed,
                troubles=(
                    Trouble(
                        session.result,
                        receiving_mx_hostname=session.host,
                        receiving_ip=session.ip,
                        failure_reason_code=session.reason,
                    ),
                )
                if failed
                else (),
                tls=session.tls,
                mx_host=session.host,
                mx_ip=session.ip,
            )
        )

    def _sender(self, line: bytes) -> None:
        found = _QMGR.match(line)
        if found and found[5].lower() in self._own_senders:
            if len(self._own) >= MAX_PROCESSES:
                del self._own[next(iter(self._own))]
            self._own[found[4]] = None


def _unverified(session: _Session) -> tuple[str, str]:
    """The result type of "Server certificate not verified"."""
    evidence = session.evidence
    # The words of Postfix 3.10's own TLSRPT, so that a log of any version gives the same report.
    if evidence == b"certificate has expired":
        return "certificate-expired", ""
    if evidence == b"certificate not yet valid":
        return "certificate-expired", "certificate not yet valid"
    if evidence == b"self-signed certificate":
        return GENERAL_FAILURE, "self-signed_certificate"
    # 3.10 calls a certificate trusted whose chain is good, verified whose name is good too; before,
    # the name alone makes it untrusted.
    if session.tls == "trusted" or evidence == b"num=62:hostname mismatch":
        return "certificate-host-mismatch", ""
    return "certificate-not-trusted", _clean(evidence)


def _clean(text: bytes) -> str:
    return clean(text.decode("utf-8", "replace"), 256)
