"""What the log of a Postfix of any version says of its TLS sessions (smtp_tls_loglevel >= 1, or
Postfix 3.11 and later).

The lines of one delivery come from one smtp(8) process, in this order: sessions as they are set up,
why one was given up, and a line for each recipient that names the domain. So sessions wait with
their process until its next recipient line.

Promises: a session is counted once, whatever number of recipients and of lines it has. Text of a
remote host is never taken for Postfix's own: every expression here is anchored at the start of the
line, and no field is read from behind text that a stranger wrote. Lines about TLS that cannot be
read for certain are counted as unclear. Absence of evidence is none: what comes from a Postfix that
delivers, and whose log has not one session, is held, and let go when the log ends so. Memory is
bounded. Must not: do I/O.
What a log lacks: the next hop, where mail goes to a relay host (the recipient's domain is taken);
the sending address; the EHLO name; sessions without TLS are counted as `plain` and no more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final, cast

from smtp_sts.dane.faults import FAULTS, as_fault
from smtp_sts.reporting.envelopes import bare
from smtp_sts.reporting.lines import Clock, log_domain
from smtp_sts.reporting.outcome import Certificate, Outcome, Trouble
from smtp_sts.reporting.postfix_lines import (
    DELAYS,
    ESTABLISHED,
    GIVEN_UP,
    HANDSHAKE,
    HEAD,
    LOSS,
    NOT_OFFERED,
    QMGR,
    REASONS,
    RECIPIENT,
    STAMPED,
    TAKEN,
    TLS,
    TLSA_LOOKUP,
    TLSRPT,
    UNVERIFIED,
    VERIFYING,
)
from smtp_sts.tlsrpt.names import clean, ip_address
from smtp_sts.tlsrpt.results import GENERAL_FAILURE, RESULTS

#: Processes and queue ids that are remembered; of more, the oldest are let go.
MAX_PROCESSES: Final = 10_000
#: Outcomes of one Postfix that wait for a sign that its log tells of sessions at all.
MAX_HELD: Final = 1000
#: MX hosts that one delivery tries, at most (Postfix: smtp_mx_session_limit, 2).
_MAX_SESSIONS: Final = 20


class _Session:
    __slots__ = ("at", "domain", "evidence", "host", "ip", "port", "reason", "result", "success",
                 "tls")  # fmt: skip

    def __init__(self, at: float, host: str, ip: str) -> None:
        self.at = at
        self.host = host
        self.ip = ip
        self.port = 0
        self.tls: Certificate = ""
        self.result = ""
        self.reason = ""
        self.evidence = b""
        self.domain = ""
        self.success = False


class _Instance:
    """One Postfix, by host and syslog_name. `told`: whether its log tells of sessions at all."""

    __slots__ = ("held", "plain", "told")

    def __init__(self) -> None:
        self.told = False
        #: what counts as soon as it is told
        self.held: list[Outcome] = []
        self.plain = 0


class _Process:
    __slots__ = ("delivery", "instance", "sessions")

    def __init__(self, instance: _Instance) -> None:
        self.instance = instance
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
        self._instances: dict[bytes, _Instance] = {}
        #: the time of the first line, seconds since the epoch
        self._begin: float | None = None
        #: whether lines of other programs have something to say
        self._others = True
        self.outcomes = 0
        #: recipient lines that cannot be read for certain
        self.unclear = 0
        #: lines whose time cannot be
        self.undated = 0
        #: deliveries in sessions without TLS
        self.plain = 0
        self._silent = 0
        #: sessions that no recipient line ever belonged to
        self.unfinished = 0
        #: sessions that brought our own reports
        self.own = 0
        #: datagrams that Postfix says it could not send
        self.lost_datagrams = 0

    def line(self, line: bytes) -> None:
        """Take one line, without its end."""
        if b"/smtp[" not in line:
            if self._others:
                self._other(line)
            return
        if self._begin is None:
            self._first(line)
        head = HEAD.match(line)
        if head is None:
            line = bare(line) or b""
            head = HEAD.match(line)
            if head is None:
                return
        text = line[head.end() :]
        # The most frequent first; each of these stands where no remote text can.
        if text.find(b": to=<", 0, 24) > 0:
            self._recipient(head, text)
        elif text.find(b" TLS connection established to ", 0, 48) > 0:
            if found := ESTABLISHED.match(text):
                self._told(self._process(head).instance)
                session = self._session(head, found[2], found[3], new=True)
                if session is not None:
                    session.tls = cast(Certificate, found[1].decode().lower())
        elif text.startswith(b"TLSRPT: "):
            self._tlsrpt(head, text)
        elif text.find(b"certificate verification failed for ", 0, 64) >= 0:
            found = UNVERIFIED.match(text)
            if found and (session := self._session(head, found[1], found[2])):
                session.evidence = found[3]
        elif text.startswith(b"SSL_connect error to "):
            found = HANDSHAKE.match(text)
            if found and (session := self._session(head, found[1], found[2], new=True)):
                session.result, session.reason = GENERAL_FAILURE, "TLS handshake failed"
        elif text.startswith((b"warning: " + LOSS, LOSS)):
            self.lost_datagrams += 1
        elif found := GIVEN_UP.match(text):
            self._given_up(head, found[2])

    @property
    def waiting(self) -> int:
        """Sessions whose recipient is not told yet."""
        return sum(len(process.sessions) for process in self._processes.values())

    @property
    def hosts(self) -> set[str]:
        """The hosts that lines of smtp(8) name."""
        return {name.partition(b" ")[0].decode("ascii") for name in self._instances}

    @property
    def mute(self) -> dict[str, int]:
        """The Postfixes (host and syslog_name) that have delivered mail, and whose log has not one
        session, and how many deliveries: their main.cf lacks smtp_tls_loglevel = 1, or no host
        offered them TLS."""
        return {
            name.decode("ascii"): instance.plain
            for name, instance in self._instances.items()
            if instance.plain and not instance.told
        }

    @property
    def silent(self) -> int:
        """Deliveries and failures of which the log does not tell whether there was TLS."""
        return self._silent + sum(
            instance.plain + len(instance.held)
            for instance in self._instances.values()
            if instance.plain and not instance.told
        )

    def settle(self) -> None:
        """The log ends here for now: the failures of a Postfix that has delivered nothing count."""
        for instance in self._instances.values():
            if instance.held and not instance.plain:
                self._let_go(instance)

    def hold_no_longer(self, since: float) -> None:
        """As `settle`, for what is held of before a time, seconds since the epoch; what is held of
        others is let go."""
        for instance in self._instances.values():
            if instance.held and instance.held[-1].at < since:
                if instance.plain:
                    self._silent += len(instance.held)
                    instance.held.clear()
                else:
                    self._let_go(instance)

    def finish(self) -> None:
        """No more lines come: count what still waits."""
        self.unfinished += sum(len(p.sessions) for p in self._processes.values())
        self._processes.clear()
        self.settle()

    def _let_go(self, instance: _Instance) -> None:
        held, instance.held = instance.held, []
        for outcome in held:
            self.outcomes += 1
            self._take(outcome)

    def _told(self, instance: _Instance) -> None:
        """A sign that this Postfix logs its sessions."""
        if not instance.told:
            instance.told = True
            self.plain += instance.plain
            instance.plain = 0
            self._let_go(instance)

    def _other(self, line: bytes) -> None:
        if self._begin is None:
            self._first(line)
        if b"qmgr[" in line and self._own_senders:
            self._sender(line)
        self._others = bool(self._own_senders) or self._begin is None

    def _first(self, line: bytes) -> None:
        stamp = STAMPED.match(line)
        if stamp is not None:
            self._begin = self._clock.of(stamp[1], stamp[2], stamp[3])

    def _process(self, head: re.Match[bytes]) -> _Process:
        name = head[4]
        process = self._processes.get(name)
        if process is None:
            if len(self._processes) >= MAX_PROCESSES:
                oldest = self._processes.pop(next(iter(self._processes)))
                self.unfinished += len(oldest.sessions)
            process = self._processes[name] = _Process(self._instance(name.partition(b"/")[0]))
        return process

    def _instance(self, name: bytes) -> _Instance:
        instance = self._instances.get(name)
        if instance is None:
            if len(self._instances) >= MAX_PROCESSES:
                oldest = self._instances.pop(next(iter(self._instances)))
                self._silent += oldest.plain + len(oldest.held)
            instance = self._instances[name] = _Instance()
        return instance

    def _at(self, head: re.Match[bytes]) -> float | None:
        at = self._clock.of(head[1], head[2], head[3])
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
        session = _Session(at, log_domain(host), address)
        if len(process.sessions) >= _MAX_SESSIONS:
            self.unfinished += 1
            process.sessions.pop(0)
        process.sessions.append(session)
        return session

    def _tlsrpt(self, head: re.Match[bytes], text: bytes) -> None:
        found = TLSRPT.match(text)
        if found is None:
            self.unclear += 1
            return
        session = self._session(head, found[3], found[4])
        if session is None:
            return
        session.domain = log_domain(found[2])
        if found[1] == b"success":
            session.success = True
            return
        name = (found[5] or b"").decode("ascii").replace("_", "-")
        session.result = name if name in RESULTS else GENERAL_FAILURE
        reason = _clean(found[6] or b"")
        session.result = as_fault(session.result, reason)
        session.reason = reason if name in RESULTS else reason or name

    def _given_up(self, head: re.Match[bytes], reason: bytes) -> None:
        """Why one MX host was given up for the next, or a recipient's delivery."""
        if found := NOT_OFFERED.match(reason):
            session = self._session(head, found[1] or found[3], found[2] or found[4])
            if session is not None and not session.result:
                session.result = "starttls-not-supported"
            return
        known = REASONS.get(reason)
        if known is None and TLSA_LOOKUP.match(reason):
            known = (FAULTS["tlsa-lookup-failed"], "TLSA lookup failed")
        process = self._processes.get(head[4])
        if known is None or process is None or not process.sessions:
            return
        session = process.sessions[-1]
        if not session.result:
            session.result, session.reason = known if known[0] else _unverified(session)

    def _recipient(self, head: re.Match[bytes], text: bytes) -> None:
        found = RECIPIENT.fullmatch(text)
        # An older Postfix does not quote local parts: one that holds ">, relay=" could tell tales.
        if found is None or b">, relay=" in found[8] or b">, orig_to=" in found[8]:
            self.unclear += 1
            self._drop(head)
            return
        queue_id, domain, host, ip, port, fields, status, reason = found.groups()
        process = self._process(head)
        delivery = (queue_id, domain)
        again, process.delivery = process.delivery == delivery, delivery
        taken = status in TAKEN
        reused = host is None or b"conn_use=" in fields
        if not taken and not again:
            if not process.sessions and not reused:
                # refused before there was a TLS session: what counts is the reason
                self._refused(head, process, host, ip, reason)
            else:
                self._given_up(head, reason)
        if b"tls=" in fields:
            self._features(head, process, found, again=again or reused)
        if not process.sessions:
            if taken and not again and not reused:
                self._unprotected(head, process.instance, fields)
            return
        sessions, process.sessions = process.sessions, []
        if queue_id in self._own:
            self.own += len(sessions)
            return
        name = log_domain(domain)
        for session in sessions:
            session.port = int(port or 0)
            self._emit(process.instance, session, name)

    def _features(
        self, head: re.Match[bytes], process: _Process, found: re.Match[bytes], *, again: bool
    ) -> None:
        """What a delivery says of its session by itself, where nothing was said before."""
        tls = TLS.search(found[6])
        if tls is None:
            return
        self._told(process.instance)
        broken, level, downgrade, undecided = tls.groups()
        if process.sessions or again or undecided:
            return
        if broken:
            session = self._session(head, found[3], found[4])
            if session is not None and downgrade == b"none":
                session.result = "starttls-not-supported"
            elif session is not None:
                session.result, session.reason = GENERAL_FAILURE, _clean(tls[0].strip(b" ,"))
        elif found[7] in TAKEN and b"none" not in (level, downgrade):
            session = self._session(head, found[3], found[4])
            if session is not None:
                session.success = True
                session.tls = "verified" if (downgrade or level) in VERIFYING else ""

    def _unprotected(self, head: re.Match[bytes], instance: _Instance, fields: bytes) -> None:
        """A delivery without a word of TLS."""
        at = self._at(head)
        if b"tls=" not in fields and at is not None:
            delays = DELAYS.search(fields)
            took = float(delays[1]) + float(delays[2]) if delays else 0.0
            if self._begin is None or at - took <= self._begin:
                # What was said of its session may stand before the first line.
                self._silent += 1
                return
        if instance.told:
            self.plain += 1
        else:
            instance.plain += 1

    def _refused(
        self, head: re.Match[bytes], process: _Process, host: bytes, ip: bytes, reason: bytes
    ) -> None:
        if reason in REASONS or TLSA_LOOKUP.match(reason):
            self._session(head, host, ip)
        self._given_up(head, reason)

    def _drop(self, head: re.Match[bytes]) -> None:
        process = self._processes.get(head[4])
        if process is not None:
            self.unfinished += len(process.sessions)
            process.sessions.clear()

    def _emit(self, instance: _Instance, session: _Session, domain: str) -> None:
        domain = session.domain or domain
        if not domain or not (session.tls or session.result or session.success):
            self.unclear += 1
            return
        failed = bool(session.result)
        outcome = Outcome(
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
            mx_port=session.port,
        )
        if instance.told:
            self.outcomes += 1
            self._take(outcome)
        elif len(instance.held) < MAX_HELD:
            instance.held.append(outcome)
        else:
            self._silent += 1

    def _sender(self, line: bytes) -> None:
        found = QMGR.match(line)
        if found and found[5].lower() in self._own_senders:
            if len(self._own) >= MAX_PROCESSES:
                del self._own[next(iter(self._own))]
            self._own[found[4]] = None


def _unverified(session: _Session) -> tuple[str, str]:
    """The result type of "Server certificate not verified"."""
    evidence = session.evidence
    # The words of Postfix 3.10's own TLSRPT, so that a log of any version gives the same report.
    if evidence == b"certificate has expired":
        return FAULTS["certificate-expired"], ""
    if evidence == b"certificate not yet valid":
        return FAULTS["certificate-not-yet-valid"], "certificate not yet valid"
    if evidence == b"self-signed certificate":
        return FAULTS["certificate-self-signed"], "self-signed_certificate"
    # 3.10 calls a certificate trusted whose chain is good, verified whose name is good too; before,
    # the name alone makes it untrusted.
    if not session.tls and not evidence:  # what was said of it is not in this log
        return GENERAL_FAILURE, "certificate not verified"
    if session.tls == "trusted" or evidence == b"num=62:hostname mismatch":
        return FAULTS["certificate-name-mismatch"], ""
    return FAULTS["certificate-unknown-issuer"], _clean(evidence)


def _clean(text: bytes) -> str:
    return clean(text.decode("utf-8", "replace"), 256)
