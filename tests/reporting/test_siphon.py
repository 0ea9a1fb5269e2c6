"""The process that empties the datagram socket: nothing is lost between it and who counts."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtp_sts.reporting.outcome import Outcome
from smtp_sts.reporting.receive import Receiver, Siphon, bind


class Scene:
    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "s")
        self.socket = bind(Path(self.path), 0o600)
        self.siphon = Siphon(self.socket)
        self.sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sender.settimeout(10)

    def send(self, data: bytes) -> None:
        self.sender.sendto(data, self.path)

    def rest(self) -> list[bytes]:
        """Everything up to the end of the siphon."""
        found: list[bytes] = []
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            select.select([self.siphon], [], [], 1.0)
            some = self.siphon.read()
            if some is None:
                return found
            found += some
        raise AssertionError("the siphon does not end")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.siphon.close()
    made.socket.close()
    made.sender.close()


def test_datagrams_come_through_whole_and_in_order(scene: Scene) -> None:
    sent = [b"", b"x", b"\x00" * 200_000, *(b"%d" % n * (n % 50) for n in range(2000))]
    for data in sent:
        scene.send(data)
    scene.siphon.end()
    assert scene.rest() == sent


def test_a_single_datagram_does_not_wait_for_more(scene: Scene) -> None:
    scene.send(b"one")
    assert select.select([scene.siphon], [], [], 10.0)[0]
    assert scene.siphon.read() == [b"one"]
    assert scene.siphon.read() == []


def test_what_a_slow_reader_does_not_take_is_kept(scene: Scene) -> None:
    """A queue of ten datagrams, and a reader that stays away for five megabytes."""
    sent = [os.urandom(5000) for _ in range(1000)]
    for data in sent:
        scene.send(data)
    scene.siphon.end()
    assert scene.rest() == sent


def test_it_ends_with_its_reader(scene: Scene) -> None:
    os.close(os.dup(scene.siphon.fileno()))
    pipe, scene.siphon._pipe = scene.siphon._pipe, os.open("/dev/null", os.O_RDONLY)
    os.close(pipe)
    assert scene.siphon.process.wait(10) == 0


def test_one_that_was_killed_is_told_of_and_another_goes_on(scene: Scene) -> None:
    scene.siphon.process.kill()
    assert scene.rest() == []
    scene.send(b"meanwhile")
    second = Siphon(scene.socket)
    try:
        assert select.select([second], [], [], 10.0)[0]
        assert second.read() == [b"meanwhile"]
    finally:
        second.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_are_its_parent_s_business(
    scene: Scene, number: signal.Signals
) -> None:
    scene.send(b"at work")
    assert select.select([scene.siphon], [], [], 10.0)[0]
    assert scene.siphon.read() == [b"at work"]
    scene.siphon.process.send_signal(number)
    scene.send(b"still here")
    assert select.select([scene.siphon], [], [], 10.0)[0]
    assert scene.siphon.read() == [b"still here"]


def test_a_receiver_counts_what_a_siphon_brings(scene: Scene) -> None:
    outcomes: list[Outcome] = []
    receiver = Receiver(scene.siphon, outcomes.append, lambda: 5.0)
    good = b'{"d":"bob.example","policies":[{"policy-type":9,"f":0}]}'
    for data in (good, b"garbage", good):
        scene.send(data)
    scene.siphon.end()
    with pytest.raises(EOFError):
        while True:
            select.select([scene.siphon], [], [], 5.0)
            receiver.drain()
    assert [(o.domain, o.at) for o in outcomes] == [("bob.example", 5.0)] * 2
    assert (receiver.datagrams, sum(receiver.malformed.values())) == (3, 1)
