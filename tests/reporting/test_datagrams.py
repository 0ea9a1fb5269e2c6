"""What Postfix's libtlsrpt sends, and what else may arrive on that socket."""

from __future__ import annotations

import json
import socket
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.reporting import datagram
from smtp_sts.reporting.datagram import DatagramError, ehlo_name, parse
from smtp_sts.reporting.outcome import Outcome, Trouble
from smtp_sts.reporting.receive import SAMPLES, Receiver, SocketError, bind
from smtp_sts.tlsrpt import AppliedPolicy
from smtp_sts.tlsrpt.results import CODES

# Two datagrams as Postfix 3.10.13 with libtlsrpt 0.5.0 sent them.
GOOD = (
    b'{"d": "bob.example","pr": "v=TLSRPTv1; rua=mailto:r@bob.example","policies":[{"policy-type"'
    b':2,"policy-domain": "bob.example","policy-string":["version: STSv1","mode: enforce","mx: mx.'
    b'bob.example","max_age: 86400"],"mx-host":["mx.bob.example"],"t":0,"f":0}]}'
)
BAD = (
    b'{"d": "mal.example","pr": "v=TLSRPTv1; rua=mailto:r@mal.example","policies":[{"policy-type"'
    b':2,"policy-domain": "mal.example","policy-string":["version: STSv1","mode: enforce","mx: mx.'
    b'mal.example","max_age: 86400"],"mx-host":["mx.mal.example"],"failure-details":[{"c":202,"s":'
    b' "192.0.2.1","n": "mx.mal.example","h": "250-mx.bob.example\\r\\n250-SIZE 33554432\\r\\n250-'
    b'8BITMIME\\r\\n250-STARTTLS\\r\\n250 HELP","r": "192.0.2.2"}],"t":1,"f":1}]}'
)


def _policy(name: str) -> AppliedPolicy:
    lines = ("version: STSv1", "mode: enforce", f"mx: mx.{name}", "max_age: 86400")
    return AppliedPolicy("sts", name, lines, (f"mx.{name}",))


def test_a_session_that_complied() -> None:
    assert parse(GOOD, 7.0) == [
        Outcome(
            at=7.0,
            source="datagram",
            domain="bob.example",
            failed=False,
            policy=_policy("bob.example"),
            record="v=TLSRPTv1; rua=mailto:r@bob.example",
        )
    ]


def test_law_7_policies_of_a_stranger_are_not_kept_by_the_thousand() -> None:
    """The same policies come by the thousand, and are read once; his are 100 kB each."""
    tracemalloc.start()
    try:
        for number in range(200):
            line = f"mx: {number}.".ljust(100_000, "x")
            data = {"policy-type": 2, "f": 0, "policy-string": [line], "mx-host": [line]}
            parse(json.dumps({"d": "bob.example", "policies": [data]}).encode(), 7.0)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000_000


def test_a_session_that_failed() -> None:
    (outcome,) = parse(BAD, 7.0)
    assert outcome.failed
    assert outcome.policy == _policy("mal.example")
    assert outcome.troubles == (
        Trouble(
            "certificate-host-mismatch",
            sending_mta_ip="192.0.2.1",
            receiving_mx_hostname="mx.mal.example",
            receiving_mx_helo="mx.bob.example",
            receiving_ip="192.0.2.2",
        ),
    )


def _data(policy: dict[str, Any] | None = None, **members: Any) -> bytes:
    data = json.loads(BAD)
    data["policies"][0].update(policy or {})
    data.update(members)
    return json.dumps(data).encode()


def _failure(**members: Any) -> dict[str, Any]:
    return {"failure-details": [{"c": 203, **members}]}


@pytest.mark.parametrize("version", ["1", 1])
def test_the_protocol_version_may_be_there_or_not(version: object) -> None:
    assert parse(_data(dpv=version), 7.0) == parse(BAD, 7.0)


def test_a_policy_domain_left_out_is_the_domain() -> None:
    data = json.loads(GOOD)
    del data["policies"][0]["policy-domain"]
    assert parse(json.dumps(data).encode(), 7.0) == parse(GOOD, 7.0)


@pytest.mark.parametrize(("code", "name"), sorted(CODES.items()))
def test_every_code_has_its_result_type(code: int, name: str) -> None:
    (outcome,) = parse(_data(_failure(c=code)), 0)
    assert outcome.troubles[0].result_type == name


def test_a_code_of_the_future_is_a_general_failure_with_the_code_as_reason() -> None:
    (outcome,) = parse(_data(_failure(c=399)), 0)
    assert outcome.troubles == (Trouble("validation-failure", failure_reason_code="code 399"),)


@pytest.mark.parametrize(("code", "name"), [(1, "tlsa"), (2, "sts"), (9, "no-policy-found")])
def test_every_policy_type(code: int, name: str) -> None:
    (outcome,) = parse(_data({"policy-type": code}), 0)
    assert outcome.policy is not None
    assert outcome.policy.policy_type == name


def test_several_policies_give_an_outcome_each() -> None:
    data = json.loads(BAD)
    data["policies"].append({"policy-type": 1, "f": 0, "t": 0})
    outcomes = parse(json.dumps(data).encode(), 0)
    assert [(o.policy and o.policy.policy_type, o.failed) for o in outcomes] == [
        ("sts", True),
        ("tlsa", False),
    ]


def test_invalid_utf8_loses_nothing_but_the_bytes() -> None:
    (outcome,) = parse(BAD.replace(b"250-mx.bob.example", b"250-mx.b\xffb"), 0)
    assert outcome.troubles[0].receiving_mx_helo == "mx.b\ufffdb"
    assert outcome.troubles[0].result_type == "certificate-host-mismatch"


@pytest.mark.parametrize(
    ("members", "trouble"),
    [
        ({"s": "no address", "r": "192.0.2.999"}, Trouble("certificate-not-trusted")),
        ({"n": "mx\r\nevil"}, Trouble("certificate-not-trusted")),
        ({"n": "MX.Example."}, Trouble("certificate-not-trusted", "", "mx.example")),
        ({"f": "a\x1b[2J\r\nb"},
         Trouble("certificate-not-trusted", failure_reason_code="a [2J b")),
        ({"f": "x" * 9000}, Trouble("certificate-not-trusted", failure_reason_code="x" * 256)),
        ({"s": None, "h": None, "a": None}, Trouble("certificate-not-trusted")),
    ],
)  # fmt: skip
def test_law_5_what_a_remote_host_said_is_cleaned(members: Any, trouble: Trouble) -> None:
    (outcome,) = parse(_data(_failure(**members)), 0)
    assert outcome.troubles == (trouble,)


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ("250-mx.example\r\n250 HELP", "mx.example"),
        ("250 mx.example Hello [192.0.2.1], at Thu, 1 Jan 2026 00:00:00", "mx.example"),
        ("mx.example", "mx.example"),
        ("250-\r\n250 x", ""),
        ("", ""),
        ("250 " + "x" * 100_000, "x" * 255),
    ],
)
def test_of_the_ehlo_reply_the_name_is_kept(reply: str, name: str) -> None:
    assert ehlo_name(reply) == name


@pytest.mark.parametrize(
    ("data", "slug"),
    [
        (b"", "datagram-not-json"),
        (b"\x00" * 40, "datagram-not-json"),
        (b"\xff" * 40, "datagram-not-json"),
        (GOOD[:-20], "datagram-not-json"),
        (GOOD + GOOD, "datagram-not-json"),
        (b'{"x":' + b"[" * 100_000, "datagram-not-json"),
        (b"[]", "datagram-fields"),
        (b"{}", "datagram-fields"),
        (_data(d=5), "datagram-fields"),
        (_data(policies={}), "datagram-fields"),
        (_data(policies=[]), "datagram-fields"),
        (_data(policies=[{}]), "datagram-fields"),
        (_data({"f": "1"}), "datagram-fields"),
        (_data({"policy-type": 3}), "datagram-fields"),
        (_data(d="../../etc"), "datagram-domain"),
        (_data(d="a b.example"), "datagram-domain"),
        (_data(dpv="2"), "datagram-version"),
    ],
)
def test_what_is_no_datagram_is_named(data: bytes, slug: str) -> None:
    with pytest.raises(DatagramError) as caught:
        parse(data, 0)
    assert caught.value.slug == slug
    assert str(caught.value).isprintable()


def test_a_datagram_of_the_greatest_size_is_read() -> None:
    big = _data(_failure(h="250-mx.example\r\n" + "x" * 200_000))
    assert parse(big, 0)[0].troubles[0].receiving_mx_helo == "mx.example"


@given(st.binary(max_size=200))
def test_any_bytes_give_outcomes_or_the_declared_error(data: bytes) -> None:
    try:
        parse(data, 0)
    except DatagramError as error:
        assert str(error).isprintable()


@given(st.integers(0, len(BAD) - 1), st.binary(min_size=1, max_size=8))
def test_any_damage_gives_outcomes_or_the_declared_error(at: int, junk: bytes) -> None:
    try:
        outcomes = parse(BAD[:at] + junk + BAD[at + len(junk) :], 0)
    except DatagramError as error:
        assert str(error).isprintable()
    else:
        assert all(t.failure_reason_code.isprintable() for o in outcomes for t in o.troubles)


# The socket


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our socket, and one of an MTA that sends to it as libtlsrpt does."""
    ours = bind(tmp_path / "tlsrpt.sock", 0o660)
    theirs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.connect(str(tmp_path / "tlsrpt.sock"))
    yield ours, theirs
    ours.close()
    theirs.close()


def test_garbage_is_counted_and_never_the_end(wire: tuple[socket.socket, socket.socket]) -> None:
    """One malformed datagram ended another collector."""
    ours, theirs = wire
    taken: list[Outcome] = []
    receiver = Receiver(ours, taken.append, lambda: 7.0)
    for data in (GOOD, b"", b"\xff\x00", b"[]", BAD, b"x" * 150_000, GOOD):
        theirs.send(data)
        receiver.drain()
    assert [o.domain for o in taken] == ["bob.example", "mal.example", "bob.example"]
    assert receiver.datagrams == 7
    assert receiver.outcomes == 3
    assert receiver.malformed == {"datagram-not-json": 3, "datagram-fields": 1}
    assert [s["slug"] for s in receiver.samples] == [
        "datagram-not-json", "datagram-not-json", "datagram-fields", "datagram-not-json"
    ]  # fmt: skip


def test_drain_reads_all_that_waits(wire: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = wire
    theirs.setblocking(False)
    sent = 0
    while True:
        try:
            theirs.send(GOOD)
        except BlockingIOError:
            break
        sent += 1
    receiver = Receiver(ours, lambda _: None, lambda: 7.0)
    assert receiver.drain(limit=3) == 3
    assert receiver.drain() == sent - 3
    assert receiver.drain() == 0


def test_samples_are_bounded(wire: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = wire
    receiver = Receiver(ours, lambda _: None, lambda: 7.0)
    for _ in range(50):
        theirs.send(b"x" * 50_000)
        receiver.drain()
    assert receiver.malformed["datagram-not-json"] == 50
    assert len(receiver.samples) == SAMPLES
    assert len(str(receiver.samples)) < 20_000


def test_the_socket_has_the_mode_asked_for_and_replaces_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind(path, 0o600).close()
    made = bind(path, 0o622)
    assert stat.S_IMODE(path.stat().st_mode) == 0o622
    made.close()


def test_what_cannot_be_bound_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path, words in (
        (tmp_path / "file", "is no socket; move it away"),
        (tmp_path / "absent" / "s", "its folder must exist"),
        (tmp_path / ("x" * 120), "107 at most"),
    ):
        with pytest.raises(SocketError, match=words):
            bind(path, 0o600)
    assert (tmp_path / "file").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_sample_is_printable() -> None:
    assert datagram.sample(b"\x1b\xff")["start"].isprintable()
