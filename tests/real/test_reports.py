"""What real Postfix tells of its sessions: by datagram (from 3.10 on) and by its log (all).

The same mail goes to good and bad receivers; what is collected has to name each failure.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path

import msgspec
import pytest

from smtp_sts.lab.mtas.postfix import QUEUE, SUITES, tells_tlsrpt
from smtp_sts.reporting.lines import Clock, Lines
from smtp_sts.reporting.outcome import Outcome, Trouble
from smtp_sts.reporting.postfix_log import PostfixLog
from smtp_sts.reporting.receive import Receiver, bind

from .postfix import Postfix, world
from .world import SITES

pytestmark = pytest.mark.real

#: domain -> what has to be reported of it; "" for a session that complied
EXPECTED = {
    "enforce.example": "",
    "wildcard.example": "",
    "wrong-name.example": "certificate-host-mismatch",
    "self-signed.example": "certificate-not-trusted",
    "expired.example": "certificate-expired",
    "stripped.example": "starttls-not-supported",
}


class Collected:
    """The outcomes of one world, by domain: from datagrams, and from the log."""

    def __init__(self) -> None:
        self.datagrams: dict[str, list[Outcome]] = defaultdict(list)
        self.log: dict[str, list[Outcome]] = defaultdict(list)
        self.raw_log: list[str] = []
        self.malformed = 0
        self.unclear = 0


def _wait_for_all(made: Postfix, receiver: Receiver) -> None:
    recipients = [made.send(domain) for domain in EXPECTED]
    for recipient in recipients:
        made.outcome(recipient)
        receiver.drain()


@pytest.fixture(scope="module", params=sorted(SUITES, reverse=True), ids="postfix-{}".format)
def collected(
    request: pytest.FixtureRequest, roots: Callable[[str], dict[str, Path]]
) -> Iterator[tuple[str, Collected]]:
    found = Collected()

    def take(outcome: Outcome) -> None:
        side = found.datagrams if outcome.source == "datagram" else found.log
        side[outcome.domain].append(outcome)

    with world(request.param, roots("")) as made:
        source = bind(made.root / QUEUE / "smtp-sts/tlsrpt.sock", 0o666)
        receiver = Receiver(source, take, time.time)
        if tells_tlsrpt(made.version):
            # smtp(8) runs in the chroot, where the queue directory is the root
            made.in_root("postconf", "-e", "smtp_tlsrpt_enable=yes")
            made.in_root("postconf", "-e", "smtp_tlsrpt_socket_name=smtp-sts/tlsrpt.sock")
            made.in_root("postfix", "reload")
        _wait_for_all(made, receiver)
        made.in_root("postfix", "abort", check=False)
        while receiver.drain():
            pass
        source.close()
        found.malformed = sum(receiver.malformed.values())
        data = Path(made.root / "var/log/maillog").read_bytes()
    log = PostfixLog(take, Clock(time.time(), UTC), ())
    for line in Lines().feed(data):
        log.line(line)
    found.unclear = log.unclear
    found.raw_log = data.decode(errors="replace").splitlines()
    yield request.param, found


@pytest.mark.parametrize(("domain", "result"), EXPECTED.items())
def test_a_datagram_tells_what_happened(
    collected: tuple[str, Collected], domain: str, result: str
) -> None:
    version, found = collected
    if not tells_tlsrpt(version):
        assert not found.datagrams
        return
    first = found.datagrams[domain][0]
    assert first.failed == bool(result)
    assert [t.result_type for t in first.troubles] == ([result] if result else [])
    assert first.record == f"v=TLSRPTv1; rua=mailto:reports@{domain}"
    assert first.policy is not None
    assert (first.policy.policy_type, first.policy.policy_domain) == ("sts", domain)
    assert first.policy.mx_host == (SITES[domain].allowed or (SITES[domain].mx,))


@pytest.mark.parametrize(("domain", "result"), EXPECTED.items())
def test_the_log_tells_the_same(collected: tuple[str, Collected], domain: str, result: str) -> None:
    _, found = collected
    lines = [line for line in found.raw_log if domain in line]
    assert found.log[domain], lines
    first = found.log[domain][0]
    assert first.failed == bool(result), lines
    assert [t.result_type for t in first.troubles] == ([result] if result else []), lines
    assert first.mx_host == SITES[domain].mx
    assert first.tls == ("verified" if not result else first.tls)
    assert abs(first.at - time.time()) < 600


def test_nothing_was_malformed_or_unclear(collected: tuple[str, Collected]) -> None:
    _, found = collected
    assert (found.malformed, found.unclear) == (0, 0)


def test_no_session_is_counted_twice(collected: tuple[str, Collected]) -> None:
    version, found = collected
    for domain in EXPECTED:
        attempts = [line for line in found.raw_log if f"@{domain}>, relay=mx." in line]
        assert len(found.log[domain]) == len(attempts), domain
        if tells_tlsrpt(version):  # a session may have been under way when Postfix was ended
            assert len(found.datagrams[domain]) - len(attempts) in {0, 1}, domain


@pytest.mark.parametrize("domain", EXPECTED)
def test_log_and_datagram_give_the_same_failures_but_for_what_the_log_lacks(
    collected: tuple[str, Collected], domain: str
) -> None:
    version, found = collected
    if not tells_tlsrpt(version):
        return

    def without(trouble: Trouble) -> Trouble:
        return msgspec.structs.replace(trouble, sending_mta_ip="", receiving_mx_helo="")

    (log, datagram) = (found.log[domain][0], found.datagrams[domain][0])
    assert list(map(without, datagram.troubles)) == list(log.troubles)
