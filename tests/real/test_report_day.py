"""The report of a day by real mail servers and the running daemon: the counts are right.

Postfix 3.10 and later tell by libtlsrpt, any Postfix and Exim by their logs; 3.11 also by what its
deliveries say of TLS alone, and Exim with all that it can log. The same mail goes to good and bad
receivers of enforced policies, of one in testing mode, and of none; what is reported is what these
receivers saw.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import pytest

from smtp_sts.lab.mtas.base import SENDER, message
from smtp_sts.lab.mtas.exim import SUITES as EXIM_SUITES
from smtp_sts.lab.mtas.postfix import QUEUE, SUITES, tells_tlsrpt
from smtp_sts.reporting.lines import Clock
from smtp_sts.reporting.outcome import Outcome
from smtp_sts.reporting.postfix_log import PostfixLog
from smtp_sts.store import StoreError
from smtp_sts.store.tallies import open_tallies_to_read

from . import exim, postfix
from .world import SITES, World

pytestmark = pytest.mark.real

#: domain -> policy type, and the result type of its failures; "" where every session is good
EXPECTED: Final = {
    "enforce.example": ("sts", ""),
    "wrong-name.example": ("sts", "certificate-host-mismatch"),
    "expired.example": ("sts", "certificate-expired"),
    "stripped.example": ("sts", "starttls-not-supported"),
    "testing.example": ("sts", "certificate-not-trusted"),
    "beside-plain.example": ("no-policy-found", ""),
}
#: Mail arrives there, over one session.
ARRIVES: Final = ("enforce.example", "testing.example", "beside-plain.example")
#: Exim built with GnuTLS, as Debian has it, logs no more than that the certificate did not verify.
EXIM_EXPECTED: Final = {**EXPECTED, "expired.example": ("sts", "certificate-not-trusted")}
#: What a log does not tell (facts of RFC 8460 section 4.4 that only the MTA has).
LACKS: Final = ("sending-mta-ip", "receiving-mx-helo")


#: Versions, and what tells: datagrams, the log, or `tls=` in the log with nothing else on TLS.
POSTFIXES: Final = (
    *((version, "datagrams") for version in SUITES if tells_tlsrpt(version)),
    ("3.7", "log"),
    ("3.11", "log"),
    # In some runs one attempt of several to one domain is not counted; why is not known yet.
    pytest.param(("3.11", "features"), marks=pytest.mark.skip(reason="an attempt goes uncounted")),
)


class Day:
    """What was reported of each domain, how often the mail server tried, and how often the MX host
    was connected to."""

    def __init__(self) -> None:
        self.reports: dict[str, dict[str, Any]] = {}
        self.attempts: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        #: of a message by REQUIRETLS: Postfix's line, and what is counted
        self.required: tuple[str, list[Outcome]] = ("", [])

    def take(self, made: World, attempts: Counter[str]) -> None:
        """All of a world, now that nothing more is tried."""
        self.attempts = attempts
        self.reports = _reported(made, attempts)
        for domain in EXPECTED:
            greetings = made.events_at(SITES[domain].mx, "EHLO")
            self.seen[domain] = sum(not event["tls"] for event in greetings)


def _collect(made: World, source: str) -> None:
    """Restart the daemon, with TLS results collected from `source`."""
    made.stop_daemon()
    with (made.home / "smtp-sts.toml").open("a") as out:
        out.write(
            '[tls_reports]\nenabled = true\ndeliver = false\norganization = "Alice"\n'
            f'contact = "tlsrpt@alice.example"\n{source}\n'
        )
    made.start_daemon()
    # what it follows is followed from the moment that the reporter is there
    deadline = time.monotonic() + 60
    while not _attends(made, source):
        assert time.monotonic() < deadline, (made.home / "smtp-sts.log").read_text()
        time.sleep(0.2)


def _attends(made: World, source: str) -> bool:
    """Whether the daemon collects by now."""
    key, path = re.findall(r'^(socket|log) = "([^"]*)"', source, re.MULTILINE)[0]
    if key == "socket":
        probe = {"d": "probe.example", "pr": "v=TLSRPTv1; rua=mailto:r@probe.example",
                 "policies": [{"policy-type": 9, "t": 0, "f": 0}]}  # fmt: skip
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            try:
                out.sendto(json.dumps(probe).encode(), path)
            except (FileNotFoundError, ConnectionRefusedError):  # not there yet
                return False
        return bool(_preview(made, "probe.example")["policies"])
    try:
        tallies = open_tallies_to_read(f"sqlite:///{made.home}/smtp-sts.db")
    except StoreError:
        return False
    try:
        return bool(tallies.mark(f"log:{socket.gethostname().lower()}:{path}"))
    finally:
        tallies.close()


def _preview(made: World, domain: str) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "smtp_sts", "--config", str(made.home / "smtp-sts.toml")]
    done = subprocess.run(
        [*command, "report", "preview", domain, "--json"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return (
        json.loads(done.stdout) if done.returncode == 0 else {"policies": [], "told": done.stderr}
    )


def _reported(made: World, attempts: Counter[str]) -> dict[str, dict[str, Any]]:
    """The reports, when they have all that was tried, or so much time has passed."""
    deadline = time.monotonic() + 60
    while True:
        reports = {domain: _preview(made, domain) for domain in EXPECTED}
        if time.monotonic() > deadline or all(
            sum(_counts(reports[domain])) >= attempts[domain] for domain in EXPECTED
        ):
            return reports
        time.sleep(0.5)


def _counts(report: dict[str, Any]) -> tuple[int, int]:
    found = [policy["summary"] for policy in report["policies"]]
    return (
        sum(summary["total-successful-session-count"] for summary in found),
        sum(summary["total-failure-session-count"] for summary in found),
    )


def _tried(lines: Sequence[str], mark: str) -> Counter[str]:
    return Counter(
        {domain: sum(mark.format(domain) in line for line in lines) for domain in EXPECTED}
    )


def _requiring_tls(made: postfix.Postfix) -> tuple[str, list[Outcome]]:
    """RFC 8689, to a host that does not know it: the session is as it should be all the same."""
    made.in_root("postconf", "-e", "smtp_requiretls_policy=enforce")
    made.in_root("postfix", "reload")
    recipient = "carol@wildcard.example"
    submit = ("sendmail", "-O", "requiretls=yes", "-i", "-f", SENDER, recipient)
    made.in_root(*submit, text=message(recipient))
    line = made.outcome(recipient).line
    counted: list[Outcome] = []
    log = PostfixLog(counted.append, Clock(time.time(), UTC))
    for each in made.maillog():
        log.line(each.encode())
    return line, [outcome for outcome in counted if outcome.domain == "wildcard.example"]


@pytest.fixture(scope="module", params=POSTFIXES, ids=lambda kind: f"postfix-{'-'.join(kind)}")
def by_postfix(
    request: pytest.FixtureRequest, roots: Callable[[str], dict[str, Path]]
) -> Iterator[tuple[str, Day]]:
    version, source = request.param
    day = Day()
    with postfix.world(version, roots("")) as made:
        if source == "datagrams":
            made.in_root("postconf", "-e", "smtp_tlsrpt_enable=yes")
            made.in_root("postconf", "-e", "smtp_tlsrpt_socket_name=smtp-sts/tlsrpt.sock")
            made.in_root("postfix", "reload")
            _collect(made, f'socket = "{made.root / QUEUE}/smtp-sts/tlsrpt.sock"\n'
                           'socket_mode = "0666"')  # fmt: skip
        else:
            if source == "features":  # as it is where nobody has configured anything
                made.in_root("postconf", "-X", "smtp_tls_loglevel", "smtp_tls_security_level")
                made.in_root("postconf", "-e", "compatibility_level=3.11")
                made.in_root("postfix", "reload")
            log = made.root / "var/log/maillog"
            _collect(made, f'log = "postfix:{log}"')
        for recipient in [made.send(domain) for domain in EXPECTED]:
            made.outcome(recipient)
        if source == "features":
            day.required = _requiring_tls(made)
        made.in_root("postfix", "abort", check=False)
        lines = made.maillog()
        established = any(" TLS connection established " in line for line in lines)
        assert established is (source != "features")
        assert source == "datagrams" or version == "3.7" or any(", tls=may, " in x for x in lines)
        day.take(made, _tried(lines, "@{}>, relay=mx."))
    yield source, day


@pytest.fixture(scope="module", params=["", "+all"], ids="exim{}".format)
def by_exim(
    request: pytest.FixtureRequest, roots: Callable[[str], dict[str, Path]]
) -> Iterator[Day]:
    day = Day()
    version = max(EXIM_SUITES)
    with exim.world(version, roots("exim")) as made:
        if request.param:
            macros = made.root / "etc/exim4/conf.d/main/000_localmacros"
            macros.write_text(f"MAIN_LOG_SELECTOR = {request.param}\n")
            made.in_root("update-exim4.conf")
        log = made.root / "var/log/exim4/mainlog"
        made.attempt("plain.example")  # there is a log now
        _collect(made, f'log = "exim:{log}"')
        for domain in EXPECTED:
            made.attempt(domain)
        assert any(" DT=" in line for line in made.mainlog()) is bool(request.param)
        day.take(made, Counter(dict.fromkeys(EXPECTED, 1)))
    yield day


def _check(domain: str, day: Day, expected: dict[str, tuple[str, str]]) -> dict[str, Any]:
    policy_type, result = expected[domain]
    report = day.reports[domain]
    assert len(report["policies"]) == 1, report
    (policy,) = report["policies"]
    assert policy["policy"]["policy-type"] == policy_type, policy
    assert policy["policy"]["policy-domain"] == domain
    if policy_type == "sts":
        assert policy["policy"]["mx-host"] == list(SITES[domain].allowed or (SITES[domain].mx,))
        assert f"mode: {SITES[domain].mode}" in policy["policy"]["policy-string"]
    good, bad = _counts(report)
    attempts = day.attempts[domain]
    assert attempts > 0
    if SITES[domain].mode != "testing":  # there we connect ourselves, too
        assert day.seen[domain] in (attempts, attempts + 1)
    # a session may have been under way when the mail server was ended
    assert bad in (attempts, attempts + 1) if result else (good, bad) == (attempts, 0), policy
    assert (good if result else bad) == 0, policy
    if domain in ARRIVES:
        assert good + bad == 1
    details: list[dict[str, Any]] = policy["failure-details"]
    assert [d["result-type"] for d in details] == ([result] if result else [])
    assert sum(d["failed-session-count"] for d in details) == bad
    return details[0] if details else {}


@pytest.mark.parametrize("domain", EXPECTED)
def test_the_report_of_the_day_has_the_right_counts(
    by_postfix: tuple[str, Day], domain: str
) -> None:
    source, day = by_postfix
    detail = _check(domain, day, EXPECTED)
    if not detail:
        return
    assert detail["receiving-mx-hostname"] == SITES[domain].mx
    assert detail["receiving-ip"].startswith("192.0.2.")
    if source != "log":
        # at `may` Postfix calls this a success: our own look knows better
        told = detail.get("failure-reason-code", "").startswith("sender-check: ")
        assert told is (SITES[domain].mode == "testing"), detail
    if source != "datagrams" and SITES[domain].mode != "testing":
        assert not set(LACKS) & set(detail), detail


def test_a_host_without_requiretls_has_failed_no_policy(by_postfix: tuple[str, Day]) -> None:
    source, day = by_postfix
    if source != "features":
        return
    line, counted = day.required
    assert "/!requiretls:none, " in line
    assert not any(outcome.failed for outcome in counted), line


@pytest.mark.parametrize("domain", EXPECTED)
def test_exims_log_gives_the_same(by_exim: Day, domain: str) -> None:
    _check(domain, by_exim, EXIM_EXPECTED)
