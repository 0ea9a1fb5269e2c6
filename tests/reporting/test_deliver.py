"""Reports sent to real receivers: each day's, once, until they arrive or a day has passed."""

from __future__ import annotations

import asyncio
import contextlib
import email
import logging
import sqlite3
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dkim
import msgspec
import pytest

from smtp_sts.reporting import deliver, schedule
from smtp_sts.reporting.attempt import Attempt, attempt
from smtp_sts.reporting.compile import Sender, report_id
from smtp_sts.reporting.deliver import HOLD_SECONDS, KEEP_SECONDS, Clock, Courier
from smtp_sts.reporting.dkim import make_signer
from smtp_sts.store.outbox import LEASE_SECONDS, Delivery, open_outbox
from smtp_sts.store.tallies import open_tallies
from smtp_sts.tlsrpt import open_report

from .post_office import CONTACT, DAY, PostOffice, until

MAILTO = "mailto:reports@bob.example"
ALICE = Sender("Alice", CONTACT)


def play(act: Callable[[PostOffice], Coroutine[Any, Any, Any]], home: Path, **told: Any) -> Any:
    async def scene() -> Any:
        async with PostOffice(home, **told) as office:
            return await act(office)

    return asyncio.run(scene())


def test_two_stores_of_one_sender_send_two_reports_and_no_duplicate(tmp_path: Path) -> None:
    """RFC 8460 section 5.3: what has the id of another report is dropped as its duplicate."""

    async def act(office: PostOffice) -> None:
        office.ask("bob.example", MAILTO)
        for store in ("one", "two"):
            office.url = f"sqlite:///{tmp_path}/{store}.db"
            office.count("bob.example")
            await office.while_delivering(office.settled)
            tallies, outbox = open_tallies(office.url), open_outbox(office.url)
            again = open_tallies(office.url)  # another process
            (part,) = outbox.parts(office.day, "bob.example")
            sender = msgspec.structs.replace(ALICE, instance=again.instance())
            assert part.report_id == report_id(office.day, "bob.example", sender)
            for opened in (tallies, outbox, again):
                opened.close()
        mails = [email.message_from_bytes(content) for content in office.mta.contents()]
        assert len(mails) == 2
        assert len({mail["Message-ID"] for mail in mails}) == 2
        assert len({mail["Subject"] for mail in mails}) == 2
        reports = [open_report(content) for content in office.mta.contents()]
        assert len({found.read.report.report_id for found in reports}) == 2
        names = {part.get_filename() for mail in mails for part in mail.walk()} - {None}
        assert len(names) == 2

    play(act, tmp_path)


def test_a_report_goes_to_each_destination_by_mail_and_https(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example", "carol.example", "dave.example")
        office.ask("bob.example", f"{MAILTO},{office.https.url},{MAILTO}")
        office.ask("carol.example", "mailto:tls@carol.example")  # dave has no record
        courier = await office.while_delivering(office.settled)
        assert sorted(office.states()) == [
            ("bob.example", office.https.url, "delivered"),
            ("bob.example", MAILTO, "delivered"),
            ("carol.example", "mailto:tls@carol.example", "delivered"),
        ]
        assert courier.counts == {
            "planned": 3, "made": 2, "unwanted": 1, "delivered": 3
        }  # fmt: skip
        (dave,) = [r for r in office.reports() if r.domain == "dave.example"]
        assert (dave.state, dave.why) == (
            "unwanted", "_smtp._tls.dave.example: no record asks for reports",
        )  # fmt: skip

        (post,) = office.https.posts
        assert post.headers["content-type"] == "application/tlsrpt+gzip"
        posted = open_report(post.body).read
        assert posted.oddities == ()
        assert (posted.report.successful, posted.report.failed) == (7, 3)

        mails = {mail.rcpt_tos[0]: content for mail, content in
                 zip(office.mta.mails, office.mta.contents(), strict=True)}  # fmt: skip
        assert {mail.mail_from for mail in office.mta.mails} == {CONTACT}
        mailed = open_report(mails["reports@bob.example"])
        assert mailed.read.report == posted.report
        assert mailed.domain == "bob.example"
        message = email.message_from_bytes(mails["reports@bob.example"])
        assert message["TLS-Required"] == "No"  # RFC 8460 section 3, RFC 8689
        assert message["To"] == "reports@bob.example"
        signer = make_signer("alice.example", "s1", str(tmp_path / "key"))
        for content in mails.values():
            assert dkim.verify(
                content, dnsfunc=lambda *_, **__: signer.record.encode(), tlsrpt=True
            )

    play(act, tmp_path)


def test_nothing_goes_before_its_time_and_nothing_of_a_day_that_is_not_over(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example")
        office.count("bob.example", day=office.day + 1)
        office.ask("bob.example", MAILTO)
        due = schedule.send_at(office.day, "bob.example", "alice.example", 14400.0)
        office.clock.move(due - office.clock.now - 1)
        await office.while_delivering(lambda: len(office.reports()) == 1)
        await asyncio.sleep(0.2)
        assert office.mta.mails == []
        office.clock.move(1)
        await office.while_delivering(office.settled)
        assert [r.day for r in office.reports()] == [office.day]

    play(act, tmp_path, settings={"spread": 14400})


def test_http_500_is_not_sent_and_is_tried_again_at_growing_distances(tmp_path: Path) -> None:
    """HTTP 500 counted as sent in another reporter."""

    async def act(office: PostOffice) -> None:
        office.count("bob.example")
        office.ask("bob.example", office.https.url)
        office.https.status = 500
        tries = 1
        await office.while_delivering(lambda: [d.tries for d in office.deliveries()] == [tries])
        begin = office.clock.now
        while True:
            (waiting,) = office.deliveries()
            if waiting.state != "due":
                break
            office.clock.move(waiting.next_try - office.clock.now)
            tries += 1
            await office.while_delivering(lambda n=tries: office.deliveries()[0].tries == n)
        assert (waiting.state, waiting.answer) == ("given-up", "500 Told")
        assert office.clock.now == begin + 86400  # section 5.5: "up to 24hrs"
        assert 8 <= tries == len(office.https.posts) <= 11
        assert len({post.body for post in office.https.posts}) == 1  # the same report each time

    play(act, tmp_path)


def test_law_7_a_defect_of_ours_is_an_attempt_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claimed again whenever the claim ran out, it would never have been given up."""

    async def broken(delivery: Delivery, *rest: Any) -> Attempt:
        if delivery.domain == "bob.example":
            raise IndexError("a defect")
        return await attempt(delivery, *rest)

    async def act(office: PostOffice) -> None:
        monkeypatch.setattr(deliver, "attempt", broken)
        office.count("bob.example", "carol.example")
        office.ask("bob.example", MAILTO)
        office.ask("carol.example", "mailto:tls@carol.example")
        await office.while_delivering(lambda: [d.tries for d in office.deliveries()] == [1, 1])
        (bob,) = [d for d in office.deliveries() if d.domain == "bob.example"]
        assert (bob.state, bob.answer) == ("due", "internal error: IndexError")
        office.clock.move(schedule.RETRY_SECONDS)
        await office.while_delivering(office.settled)
        assert [state for *_, state in sorted(office.states())] == ["given-up", "delivered"]

    play(act, tmp_path)


def test_a_mail_destination_that_greylists_for_a_day_gets_its_report(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example")
        office.ask("bob.example", MAILTO)
        office.mta.answers["reports@bob.example"] = "451 4.7.1 greylisted, come back tomorrow"
        begin = office.clock.now
        await office.while_delivering(lambda: [d.tries for d in office.deliveries()] == [1])
        while (waiting := office.deliveries()[0]).next_try < begin + 86399:
            office.clock.move(waiting.next_try - office.clock.now)
            await office.while_delivering(
                lambda n=waiting.tries: office.deliveries()[0].tries == n + 1
            )
        assert "451 4.7.1 greylisted" in waiting.answer
        office.mta.answers.clear()
        office.clock.move(waiting.next_try - office.clock.now)
        await office.while_delivering(office.settled)
        assert len(office.mta.mails) == 1
        assert office.deliveries()[0].state == "delivered"

    play(act, tmp_path)


def test_each_destination_is_of_its_own_state(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example")
        office.ask("bob.example", f"{office.https.url},{MAILTO}")
        office.https.status = 503
        await office.while_delivering(lambda: [d.tries for d in office.deliveries()] == [1, 1])
        assert {d.uri: d.state for d in office.deliveries()} == {
            office.https.url: "due", MAILTO: "delivered"
        }  # fmt: skip
        office.https.status = 200
        office.clock.move(600)
        await office.while_delivering(office.settled)
        assert (len(office.mta.mails), len(office.https.posts)) == (1, 2)

    play(act, tmp_path)


def test_a_retry_is_the_same_mail_but_for_its_signature(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example")
        office.ask("bob.example", f"{MAILTO}")
        heard: list[bytes] = []
        office.mta.on_mail = lambda mail: None
        await office.while_delivering(lambda: len(office.deliveries()) == 1 and office.settled())
        heard += office.mta.contents()
        outbox = open_outbox(office.url)
        with outbox._begin() as connection:  # as after a crash before the record
            connection.exec_driver_sql(
                f"UPDATE tls_deliveries SET state='due', holder='dead', settled_at=NULL, "
                f"until={office.clock.now + LEASE_SECONDS}"
            )
        outbox.close()
        office.count("bob.example")  # what comes late changes nothing
        office.clock.move(LEASE_SECONDS + 1)
        await office.while_delivering(lambda: len(office.mta.mails) == 2)
        first, second = (content.partition(b"\r\nFrom:")[2] for content in office.mta.contents())
        assert first == second

    play(act, tmp_path)


def test_a_thousand_destinations_and_unknown_schemes(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example", "carol.example")
        office.ask("bob.example", ",".join(f"mailto:r{n}@bob.example" for n in range(1000)))
        office.ask("carol.example", "ftp://x.example/,tel:112,mailto:r@carol.example")
        await office.while_delivering(office.settled)
        assert len(office.mta.mails) == 11
        why = {r.domain: r.why for r in office.reports()}
        assert "beyond the first 10" in why["bob.example"]
        assert "'ftp://x.example/' is neither mailto: nor https:" in why["carol.example"]

    play(act, tmp_path)


def test_suppressed_domains_and_destinations_get_nothing_and_the_bcc_gets_a_copy(
    tmp_path: Path,
) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example", "carol.example", "mallory.example")
        office.ask("bob.example", f"{MAILTO},mailto:x@noisy.example,{office.https.url}")
        office.ask("carol.example", "mailto:not@carol.example")
        office.ask("mallory.example", "mailto:m@mallory.example")
        await office.while_delivering(office.settled)
        assert {(d.uri, d.state, d.answer) for d in office.deliveries()} == {
            (MAILTO, "delivered", "250 2.0.0 kept"),
            ("mailto:x@noisy.example", "skipped", "suppressed by noisy.example"),
            (office.https.url, "skipped", "suppressed by reports.bob.example"),
            ("mailto:not@carol.example", "skipped", "suppressed by not@carol.example"),
        }
        assert [m.rcpt_tos for m in office.mta.mails] == [
            ["reports@bob.example", "c@alice.example"]
        ]
        assert office.https.connections == 0
        (mallory,) = [r for r in office.reports() if r.domain == "mallory.example"]
        assert (mallory.state, mallory.why) == ("unwanted", "suppressed by mallory.example")

    play(
        act,
        tmp_path,
        settings={
            "bcc": "c@alice.example",
            "suppress": [
                "mallory.example", "noisy.example", "reports.bob.example", "not@carol.example",
            ],
        },
    )  # fmt: skip


def test_law_5_private_addresses_get_nothing(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example")
        office.ask(
            "bob.example",
            f"{office.https.url},https://127.0.0.1:{office.https.port}/,mailto:root@localhost",
        )
        await office.while_delivering(office.settled)
        assert {(d.state, d.answer) for d in office.deliveries()} == {
            (
                "given-up",
                "reports.bob.example is at 127.0.0.1, which is not on the public Internet",
            ),
            ("skipped", "127.0.0.1 is not on the public Internet"),
            ("skipped", "localhost is no name on the public Internet"),
        }
        assert (office.https.connections, office.mta.mails) == (0, [])

    play(act, tmp_path, network={"allow_private_addresses": False})


def test_a_host_that_never_answers_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp_sts.reporting.attempt.POST_SECONDS", 1.0)

    async def act(office: PostOffice) -> None:
        office.https.manner = "silent"
        domains = [f"d{n}.example" for n in range(30)]
        office.count("bob.example", *domains)
        for domain in domains:
            office.ask(domain, f"{office.https.url}/{domain}")
        office.ask("bob.example", MAILTO)
        await office.while_delivering(
            lambda: (
                bool(office.mta.mails)
                and office.https.connections > 0
                and len(office.deliveries()) == 31
            ),
        )
        await office.while_delivering(lambda: any(d.tries for d in office.deliveries()))
        await asyncio.sleep(0.3)
        assert office.https.most_at_once == 1  # and then it is left in peace
        assert sum(d.tries for d in office.deliveries()) <= 3
        # What it was to get ends with the day, tried or not.
        office.clock.move(86400 + 3600)
        await office.while_delivering(lambda: any(d.tries for d in office.deliveries()))
        courier = office.courier()
        courier._rest(office.https.name, silent=True)
        await courier._forget()
        await courier.close()
        assert office.settled()
        assert all(d.state in ("delivered", "given-up") for d in office.deliveries())

    play(act, tmp_path)


def test_a_receiver_may_ask_for_time(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example")
        office.ask("bob.example", office.https.url)
        office.https.status, office.https.retry_after = 429, "7200"
        await office.while_delivering(lambda: [d.tries for d in office.deliveries()] == [1])
        assert office.deliveries()[0].next_try == office.clock.now + 7200

    play(act, tmp_path)


def test_where_the_dns_does_not_answer_what_the_mta_saw_stands_in(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example", record=f"v=TLSRPTv1; rua={MAILTO}")
        office.count("carol.example")
        for domain in ("bob.example", "carol.example"):
            office.world.names.spoil(f"_smtp._tls.{domain}", "servfail")
        await office.while_delivering(lambda: bool(office.mta.mails))
        await office.while_delivering(
            lambda: (
                {r.domain for r in office.reports() if r.why} == {"bob.example", "carol.example"}
            )
        )
        bob, carol = office.reports()
        assert "the record as the MTA saw it" in bob.why
        assert (carol.state, carol.next_try > office.clock.now) == ("waiting", True)
        office.world.names.mend("_smtp._tls.carol.example")
        office.ask("carol.example", "mailto:r@carol.example")
        office.clock.move(carol.next_try - office.clock.now)
        await office.while_delivering(office.settled)
        assert len(office.mta.mails) == 2

    play(act, tmp_path)


def test_a_domain_whose_dns_is_dead_for_a_day_is_given_up(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example")
        office.world.names.spoil("_smtp._tls.bob.example", "servfail")
        begin = office.clock.now
        await office.while_delivering(lambda: any(r.why for r in office.reports()))
        for _ in range(20):
            (report,) = office.reports()
            if report.state != "waiting":
                break
            before = report.next_try
            office.clock.move(before - office.clock.now)
            await office.while_delivering(
                lambda b=before: (
                    office.reports()[0].next_try != b or office.reports()[0].state != "waiting"
                )
            )
        assert report.state == "given-up"
        assert "SERVFAIL" in report.why
        assert begin + 86400 <= office.clock.now <= begin + 86410

    play(act, tmp_path)


def test_a_record_that_was_withdrawn_is_obeyed(tmp_path: Path) -> None:
    """What the MTA saw yesterday does not count where the DNS answers today."""

    async def act(office: PostOffice) -> None:
        office.count("bob.example", record=f"v=TLSRPTv1; rua={MAILTO}")
        await office.while_delivering(office.settled)
        assert (office.mta.mails, office.reports()[0].state) == ([], "unwanted")

    play(act, tmp_path)


def test_a_clock_that_jumps_over_midnight_sends_no_half_day(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.clock.move(-DAY // 2)  # noon
        office.count("bob.example")
        office.ask("bob.example", MAILTO)
        courier = office.courier()
        task = asyncio.create_task(courier.run(0.02))
        await asyncio.sleep(0.3)
        office.clock.set(DAY)  # noon of the next day, though no time has passed
        await asyncio.sleep(0.5)
        assert office.reports() == []
        office.clock.set(-DAY)  # and back
        await asyncio.sleep(0.3)
        office.clock.move(HOLD_SECONDS + 1)
        await asyncio.sleep(0.3)
        assert (office.reports(), office.mta.mails) == ([], [])
        office.clock.move(DAY // 2)
        await until(lambda: bool(office.mta.mails))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await courier.close()
        assert len(office.mta.mails) == 1

    play(act, tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True, text=True
    )
    if run.returncode:
        pytest.skip(f"a file system must be mounted: {run.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Leave no room, and none within SQLite's log."""
    with contextlib.closing(sqlite3.connect(disk / "s.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (disk / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_sends_nothing_and_what_was_answered_is_not_sent_again(
    tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def act(office: PostOffice) -> None:
        office.count("bob.example", "carol.example")
        for domain in ("bob.example", "carol.example"):
            office.ask(domain, f"{office.https.url}/{domain}")
        office.https.on_post = lambda _: fill(small_disk)
        courier = office.courier()
        task = asyncio.create_task(courier.run(0.05))
        await until(lambda: "cannot be written down" in caplog.text)
        office.clock.move(LEASE_SECONDS + 1)  # its claim has run out meanwhile
        await asyncio.sleep(1)
        assert len(office.https.posts) == 1  # the second was not begun
        office.https.on_post = None
        (small_disk / "filling").unlink()
        await until(office.settled)
        assert len(office.https.posts) == 2
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await courier.close()

    play(act, tmp_path, url=f"sqlite:///{small_disk}/s.db")
    assert sum("which cannot be written down" in r.message for r in caplog.records) == 1
    assert "free space on its file system" in caplog.text


def test_it_ends_at_once_and_says_what_it_left(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example")
        office.ask("bob.example", office.https.url)
        office.https.manner = "silent"
        config = office.config()
        task = asyncio.create_task(deliver.keep_delivering(config, clock=office.clock.clock))
        await until(lambda: bool(office.https.posts))
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < deliver.GRACE_SECONDS + 10
        (left,) = office.deliveries()
        assert (left.state, left.answer, left.sending) == ("due", "interrupted", False)
        # The next start sends it at once.
        office.https.manner = "plain"
        await office.while_delivering(office.settled)
        assert len({p.body for p in office.https.posts}) == 1

    play(act, tmp_path)


def test_what_was_delivered_is_forgotten_after_a_while(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example", "carol.example")
        office.ask("bob.example", MAILTO)
        office.ask("carol.example", "mailto:r@carol.example")
        office.mta.answers["r@carol.example"] = "451 later"
        await office.while_delivering(
            lambda: sorted(d.tries for d in office.deliveries()) == [1, 1]
        )
        office.clock.move(KEEP_SECONDS + DAY - 1)
        courier = office.courier()
        await courier._forget()
        tallies = open_tallies(office.url)
        assert len(tallies.domains(office.day)) == 2  # not certain yet
        office.clock.move(DAY // 8)
        await courier._forget()
        assert set(tallies.domains(office.day)) == {"carol.example"}  # kept until delivered
        assert len(office.deliveries()) == 2
        office.clock.move(16 * DAY)
        await courier._forget()
        assert office.deliveries() == []
        tallies.close()
        await courier.close()

    play(act, tmp_path)


def test_only_collecting_sends_nothing_and_forgets_what_is_old(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example")
        office.count("bob.example", day=office.day - 40)
        office.ask("bob.example", MAILTO)
        tallies = open_tallies(office.url)
        office.clock.move(2 * DAY)
        task = asyncio.create_task(
            deliver.keep_delivering(office.config(), clock=office.clock.clock)
        )
        await until(lambda: tallies.days() == {office.day: 1})
        tallies.close()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert (office.reports(), office.mta.mails) == ([], [])

    # It needs no sender then.
    play(act, tmp_path, settings={"deliver": False, "contact": "", "organization": ""})


def test_a_key_that_is_not_for_reports_is_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(office: PostOffice) -> None:
        signer = make_signer("alice.example", "s1", str(tmp_path / "key"))
        record = signer.record.replace("p=", "s=email; p=")
        pieces = [record[n : n + 200] for n in range(0, len(record), 200)]
        office.world.names.put(signer.record_name, "TXT", " ".join(f'"{p}"' for p in pieces))
        await office.while_delivering(lambda: "s=email" in caplog.text)

    play(act, tmp_path, settings={"dkim_selector": "s1"})
    assert "does not allow TLS reports" in caplog.text


def test_an_operator_can_send_a_day_at_once(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        office.count("bob.example", "carol.example")
        office.ask("bob.example", f"{MAILTO},{office.https.url}")
        office.ask("carol.example", "mailto:r@carol.example")
        office.https.status = 500
        courier = office.courier()
        await courier.send_day(office.day, ["bob.example"])
        assert {(d.uri, d.state, d.tries) for d in office.deliveries()} == {
            (MAILTO, "delivered", 1),
            (office.https.url, "due", 1),
        }
        office.https.status = 200
        await courier.send_day(office.day)
        assert office.settled()
        assert len(office.deliveries()) == 3
        await courier.send_day(office.day)
        assert (len(office.mta.mails), len(office.https.posts)) == (2, 2)
        with pytest.raises(ValueError, match="not over"):
            await courier.send_day(office.day + 1)
        await courier.close()

    play(act, tmp_path, settings={"spread": 14400})


def test_two_couriers_of_one_store_send_each_report_once(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        domains = [f"d{n}.example" for n in range(40)]
        office.count(*domains)
        for domain in domains:
            office.ask(domain, f"mailto:r@{domain}")
        others = [office.courier() for _ in range(2)]
        tasks = [asyncio.create_task(other.run(0.05)) for other in others]
        await office.while_delivering(lambda: len(office.reports()) == 40 and office.settled())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for other in others:
            await other.close()
        assert sorted(m.rcpt_tos[0] for m in office.mta.mails) == sorted(f"r@{d}" for d in domains)

    play(act, tmp_path)


def test_a_courier_needs_a_sender(tmp_path: Path) -> None:
    async def act(office: PostOffice) -> None:
        with pytest.raises(ValueError, match=r"tls_reports\.contact: is empty"):
            Courier(office.config(), clock=Clock())

    play(act, tmp_path, settings={"contact": ""})
