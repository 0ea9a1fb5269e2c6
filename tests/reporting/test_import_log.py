"""`smtp-sts report import-log`: an old log is counted once, however it is cut, named or packed."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from backports import zstd
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtp_sts.cli import main
from smtp_sts.reporting import import_log as module
from smtp_sts.reporting.import_log import Options, Summary, import_log
from smtp_sts.reporting.log_kind import LogError, unpacked
from smtp_sts.store import Stored, open_store
from smtp_sts.store.tallies import (
    ImportedAlready,
    Tallies,
    Tally,
    daemon_source,
    log_source,
    open_tallies,
)
from smtp_sts.tlsrpt import AppliedPolicy, PolicyResult

DAY = int(datetime(2025, 11, 25, tzinfo=UTC).timestamp()) // 86400
#: of the log's last change
LAST = datetime(2025, 11, 26, 6, tzinfo=UTC).timestamp()


def _postfix(sessions: int, *, host: str = "alice", day: int = 25) -> list[bytes]:
    """Three lines a session; one of five failed."""
    lines = []
    for n in range(sessions):
        head = f"Nov {day} 03:{n // 60 % 60:02}:{n % 60:02} {host} postfix"
        mx = f"mx.d{n % 7}.example[192.0.2.{n % 7}]:25"
        word, end = "Verified", "dsn=2.0.0, status=sent (250 ok)"
        if n % 5 == 0:
            word = "Trusted"
            end = "dsn=4.7.5, status=deferred (Server certificate not verified)"
        lines += [
            f"{head}/qmgr[9]: 4X{n:04x}: from=<a@a.example>, size=4096, nrcpt=1 (queue active)",
            f"{head}/smtp[{n % 3}]: {word} TLS connection established to {mx}: TLSv1.3",
            f"{head}/smtp[{n % 3}]: 4X{n:04x}: to=<x@d{n % 7}.example>, relay={mx}, delay=0.9, "
            f"delays=0/0/0.5/0, {end}",
        ]
    return [line.encode() + b"\n" for line in lines]


def _exim(sessions: int) -> list[bytes]:
    """The same of Exim: of each message that fails, a host's line long before its end."""
    lines = []
    for n in range(sessions):
        head = f"2025-11-25 03:{n // 60 % 60:02}:{n % 60:02} 1tF{n % 1000:03}-{n:06}-2C"
        host = f"H=mx.d{n % 7}.example [192.0.2.{n % 7}]"
        why = "TLS session: (certificate verification failed): expired"
        if n % 5 == 0:
            lines.append(f"{head} {host}: {why}")
        if n % 5 == 1:
            lines.append(f"{head} {host}: {why}")
            lines.append(
                f"{head} == x@d{n % 7}.example R=dnslookup T=remote_smtp defer (-37) {host}: {why}"
            )
            continue
        lines.append(
            f"{head} => x@d{n % 7}.example R=dnslookup T=remote_smtp {host} X=TLS1.3:A:256 CV=yes"
        )
        lines.append(f"{head} Completed")
    return [line.encode() + b"\n" for line in lines]


@pytest.fixture
def tallies(tmp_path: Path) -> Iterator[Tallies]:
    opened = open_tallies(f"sqlite:///{tmp_path}/s.db")
    yield opened
    opened.close()


def _import(log: bytes, tallies: Tallies | None, **options: object) -> Summary:
    given = Options(**{"last": LAST, "zone": UTC, **options})  # type: ignore[arg-type]
    return import_log(io.BytesIO(log), tallies, given)


def _total(tallies: Tallies, day: int = DAY) -> tuple[int, int]:
    results = [result for _, result in tallies.everything(day)]
    return sum(r.successful for r in results), sum(r.failed for r in results)


def test_sessions_of_a_log_are_counted(tallies: Tallies) -> None:
    summary = _import(b"".join(_postfix(100)), tallies)
    assert (summary.kind, summary.lines, summary.sessions, summary.domains) == (
        "postfix", 300, 100, 7,
    )  # fmt: skip
    assert [(day, c.successful, c.failed, c.domains) for day, c in summary.days.items()] == [
        ("2025-11-25", 80, 20, 7)
    ]
    assert _total(tallies) == (80, 20)
    assert tallies.sources(DAY) == {"import:alice": 100}


def test_exim_is_told_from_postfix(tallies: Tallies) -> None:
    summary = _import(b"".join(_exim(100)), tallies)
    assert (summary.kind, summary.sessions) == ("exim", 120)


def test_the_same_log_is_counted_once_and_again_when_asked(tallies: Tallies) -> None:
    log = b"".join(_postfix(100))
    _import(log, tallies)
    second = _import(log, tallies)
    assert (second.sessions, second.lines, second.known_lines) == (0, 0, 300)
    assert second.known_at == pytest.approx(time.time(), abs=60)
    assert _total(tallies) == (80, 20)
    assert _import(log, tallies, again=True).sessions == 100
    assert _total(tallies) == (160, 40)
    assert _import(log, tallies).sessions == 0


def test_a_shorter_copy_of_a_known_log_is_told_from_a_new_one(tallies: Tallies) -> None:
    lines = _postfix(100)
    _import(b"".join(lines), tallies)
    summary = _import(b"".join(lines[:150]), tallies)
    assert summary.shorter_copy
    assert (summary.sessions, _total(tallies)) == (0, (80, 20))


def test_a_log_that_only_begins_with_the_same_line_is_counted(tallies: Tallies) -> None:
    lines = _postfix(100)
    _import(b"".join(lines[:60]), tallies)
    summary = _import(b"".join(lines[:3] + lines[60:]), tallies)
    assert (summary.sessions, summary.known_at) == (81, None)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@given(
    made=st.sampled_from([_postfix, _exim]),
    cuts=st.lists(st.integers(0, 12_000), max_size=4).map(sorted),
    kill=st.none() | st.integers(0, 12_000),
    batch=st.sampled_from([500, 4000, 1 << 24]),
)
def test_however_a_log_grows_and_whenever_it_is_killed_each_session_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory,
    made: Callable[[int], list[bytes]],
    cuts: list[int],
    kill: int | None,
    batch: int,
) -> None:
    log = b"".join(made(40))
    whole = open_tallies(f"sqlite:///{tmp_path_factory.mktemp('a')}/s.db")
    grown = open_tallies(f"sqlite:///{tmp_path_factory.mktemp('b')}/s.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", 300)
        patch.setattr(module, "BATCH", batch)
        _import(log, whole, kind=made.__name__[1:])
        for cut in [*cuts, len(log)]:
            part = log[:cut]
            if kill is not None and kill < cut:
                with pytest.raises(KeyboardInterrupt):
                    import_log(
                        _Killed(part, kill),
                        grown,
                        Options(kind=made.__name__[1:], last=LAST, zone=UTC),  # type: ignore[arg-type]
                    )
                kill = None
            _import(part, grown, kind=made.__name__[1:])
    assert _total(grown) == _total(whole)
    assert sorted(grown.everything(DAY), key=repr) == sorted(whole.everything(DAY), key=repr)
    whole.close()
    grown.close()


class _Killed(io.BytesIO):
    """A log whose reading ends at a byte as if by a signal."""

    def __init__(self, data: bytes, end: int) -> None:
        super().__init__(data)
        self._end = end

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self._end:
            raise KeyboardInterrupt
        return super().read(size)


def test_a_process_that_is_killed_is_gone_on_with(tmp_path: Path) -> None:
    """kill -9, from outside, at any time."""
    log, config = tmp_path / "mail.log", tmp_path / "c.toml"
    log.write_bytes(b"".join(_postfix(3000) * 40))
    os.utime(log, (LAST, LAST))
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/s.db"\n')
    program = (
        "from smtp_sts.reporting import import_log as m; from smtp_sts.cli import main;"
        "m.BATCH = 1 << 20; main()"
    )
    command = [sys.executable, "-P", "-c", program, "--config", str(config), "report", "import-log"]
    command += [str(log), "--zone", "Z", "--json"]
    for wait in (0.45, 0.6, 0.8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(wait)
        process.kill()
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    tallies = open_tallies(f"sqlite:///{tmp_path}/s.db")
    assert _total(tallies) == (96_000, 24_000)
    assert sum(tallies.sources(DAY).values()) == 120_000
    tallies.close()


def test_two_that_read_the_same_log_at_once_count_it_once(tallies: Tallies, tmp_path: Path) -> None:
    log = b"".join(_postfix(100))
    other = open_tallies(f"sqlite:///{tmp_path}/s.db")

    class Both(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            if not data:  # the other is quicker, at the last moment
                _import(log, other)
            return data

    with pytest.raises(ImportedAlready, match="another process"):
        import_log(Both(log), tallies, Options(last=LAST, zone=UTC))
    assert _total(tallies) == (80, 20)
    other.close()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd.compress])
def test_a_log_that_was_rotated_and_packed_is_the_same_log(
    tallies: Tallies, pack: Callable[[bytes], bytes]
) -> None:
    lines = _postfix(100)
    _import(b"".join(lines[:151]), tallies)
    packed = io.BufferedReader(io.BytesIO(pack(b"".join(lines))))
    summary = import_log(unpacked(packed), tallies, Options(last=LAST, zone=UTC))
    assert summary.known_lines == 151
    assert _total(tallies) == (80, 20)


def test_what_is_packed_in_another_way_is_said_to_be() -> None:
    for start in (b"\x04\x22\x4d\x18", b"PK\x03\x04"):
        with pytest.raises(LogError, match="smtp-sts report import-log -"):
            unpacked(io.BufferedReader(io.BytesIO(start + b"x" * 100)))


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_a_damaged_file_is_counted_up_to_the_damage_and_gone_on_with_when_it_is_whole(
    tallies: Tallies, pack: Callable[[bytes], bytes]
) -> None:
    log = b"".join(_postfix(20_000))
    packed = pack(log)
    broken = io.BufferedReader(io.BytesIO(packed[: len(packed) // 2]))
    summary = import_log(unpacked(broken), tallies, Options(last=LAST, zone=UTC))
    assert summary.damage
    assert 0 < summary.sessions < 20_000
    _import(log, tallies)
    assert sum(_total(tallies)) == 20_000


def test_days_that_the_daemon_of_that_host_has_counted_are_left_out(tallies: Tallies) -> None:
    result = PolicyResult(AppliedPolicy("", "a.example"), 1, 0)
    tallies.add([Tally(DAY, "a.example", "", result)], daemon_source("alice.a.example"))
    log = b"".join(_postfix(50, day=24) + _postfix(50))
    summary = _import(log, tallies)
    assert summary.left_out == {"2025-11-25": 50}
    assert list(summary.days) == ["2025-11-24"]
    assert _total(tallies) == (1, 0)
    assert _import(b"".join(_postfix(50, host="bob")), tallies).left_out == {}
    assert sum(_total(tallies)) == 51
    assert _import(b"".join(_postfix(51)), tallies, again=True).left_out == {}
    assert sum(_total(tallies)) == 102


def test_a_log_under_another_name_than_the_machine_s_is_known_by_whose_it_is(
    tallies: Tallies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postfix's maillog_file writes the first label of myhostname."""
    monkeypatch.setattr("socket.gethostname", lambda: "vm.a.example")
    tally = Tally(DAY, "a.example", "", PolicyResult(AppliedPolicy("", "a.example"), 1, 0))
    day = "2025-11-25"
    # told by datagrams, the daemon knows no name: what is read here is its own, if nobody says else
    tallies.add([tally], daemon_source("vm.a.example"))
    assert _import(b"".join(_postfix(50, host="mail")), tallies).left_out == {day: 50}
    assert _import(b"".join(_postfix(51)), tallies, host="relay").left_out == {}
    # a daemon that follows a log keeps its names, on this machine and on others
    beside = {(DAY, log_source("vm.a.example", "mail")): 0, (DAY, log_source("mx2", "out")): 0}
    tallies.add([tally], daemon_source("vm.a.example"), {}, beside)
    assert _import(b"".join(_postfix(52, host="mail.a.example")), tallies).left_out == {day: 52}
    assert _import(b"".join(_postfix(53, host="out")), tallies).left_out == {day: 53}
    assert _import(b"".join(_postfix(54, host="mx3")), tallies).left_out == {}
    assert sum(_total(tallies)) == 2 + 51 + 54


def test_a_log_without_host_names_is_of_this_host(
    tallies: Tallies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Carol")
    result = PolicyResult(AppliedPolicy("", "a.example"), 1, 0)
    tallies.add([Tally(DAY, "a.example", "", result)], daemon_source("carol.a.example"))
    assert _import(b"".join(_exim(50)), tallies).left_out == {"2025-11-25": 60}
    assert _import(b"".join(_exim(51)), tallies, host="dave").sessions > 0
    assert set(tallies.sources(DAY)) == {"daemon:carol.a.example", "import:dave"}


@pytest.mark.parametrize(
    ("options", "day"),
    [
        ({}, "2025-11-25"),
        ({"last": datetime(2024, 3, 1, tzinfo=UTC).timestamp()}, "2023-11-25"),
        ({"year": 2019}, "2019-11-25"),
        ({"zone": timezone(timedelta(hours=5))}, "2025-11-24"),
    ],
)
def test_the_day_of_a_line_without_year_and_zone(options: dict[str, object], day: str) -> None:
    assert list(_import(b"".join(_postfix(10)), None, **options).days) == [day]


def test_a_year_that_is_given_is_that_of_the_first_line() -> None:
    line = b"".join(_postfix(1))
    log = line.replace(b"Nov 25", b"Dec 31") + line.replace(b"Nov 25", b"Jan  1")
    assert list(_import(log, None, year=2019).days) == ["2019-12-31", "2020-01-01"]
    with pytest.raises(LogError, match="no day of 2019"):
        _import(line.replace(b"Nov 25", b"Feb 29"), None, year=2019)


def test_lines_of_a_megabyte_and_one_without_an_end_are_left_out_and_said_to_be() -> None:
    lines = _postfix(10)
    log = b"".join(lines[:15]) + b"x" * (1 << 20) + b"\n" + b"".join(lines[15:]) + b"Nov 25 03:"
    summary = _import(log, None)
    assert (summary.sessions, summary.too_long, summary.cut) == (10, 1, True)


def _without_sessions(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if b" TLS connection established " not in line]


def test_a_log_without_loglevel_is_not_counted_and_goes_on_once_it_has_one(
    tallies: Tallies,
) -> None:
    mute, told = _without_sessions(_postfix(50)), _postfix(50)
    summary = _import(b"".join(mute), tallies)
    assert "smtp_tls_loglevel = 1 in main.cf" in summary.trouble
    assert (summary.sessions, summary.plain) == (0, 0)
    assert summary.silent >= 40
    assert (tallies.days(), tallies.imports(_head(mute))) == ({}, [])
    assert _import(b"".join(mute + told), tallies).trouble == ""
    assert sum(_total(tallies)) > 50


def _head(lines: list[bytes]) -> str:
    return hashlib.blake2b(lines[0], digest_size=16).hexdigest()


def test_failures_alone_count_once_however_the_log_goes_on(tallies: Tallies) -> None:
    failed = [line for line in _without_sessions(_postfix(50)) if b"status=sent" not in line]
    assert _import(b"".join(failed), tallies).sessions == 10
    assert _import(b"".join(failed + _postfix(50, host="alice")[3:]), tallies).sessions == 49
    assert sum(_total(tallies)) == 59


def test_reports_of_our_own_are_never_counted() -> None:
    summary = _import(b"".join(_postfix(10)), None, own_senders=["a@a.example"])
    assert (summary.sessions, summary.own) == (0, 10)


def test_what_is_no_log_is_refused() -> None:
    with pytest.raises(LogError, match="neither Postfix"):
        _import(b"\x00\x01" * 10_000, None)
    assert _import(b"", None).lines == 0


def test_a_dry_run_changes_nothing(tallies: Tallies) -> None:
    assert _import(b"".join(_postfix(50)), tallies, dry_run=True).sessions == 50
    assert tallies.days() == {}
    assert _import(b"".join(_postfix(50)), tallies).sessions == 50


# The command


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    config = tmp_path / "c.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/s.db"\n')

    def run(*arguments: str, given: bytes = b"") -> Result:
        stream = io.BufferedReader(io.BytesIO(given))
        command = ["--config", str(config), "report", "import-log", *arguments]
        return CliRunner().invoke(main, command, input=stream)

    return run


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "mail.log.1.gz"
    path.write_bytes(gzip.compress(b"".join(_postfix(1000))))
    os.utime(path, (LAST, LAST))
    return str(path)


def test_the_command_says_what_it_counted(run: Callable[..., Result], log: str) -> None:
    result = run(log, "--zone", "Z")
    assert result.exit_code == 0
    assert "Postfix, 3,000 lines" in result.output
    assert "1,000 counted, of 7 domains" in result.output
    assert result.output.splitlines()[-1].split() == ["2025-11-25", "7", "800", "200"]
    again = run(log, "--zone", "Z")
    assert again.exit_code == 0
    assert "nothing new  all 3,000 lines were counted on " in again.output


def test_the_command_prints_json(run: Callable[..., Result], log: str) -> None:
    data = json.loads(run(log, "--zone", "Z", "--json").output)
    assert data["sessions"] == 1000
    assert data["days"] == {"2025-11-25": {"successful": 800, "failed": 200, "domains": 7}}


def test_a_dry_run_makes_no_store(run: Callable[..., Result], log: str, tmp_path: Path) -> None:
    assert "1,000 would be counted" in run(log, "--dry-run").output
    assert not (tmp_path / "s.db").exists()


def test_standard_input_is_read(run: Callable[..., Result]) -> None:
    assert "100 counted" in run("-", given=b"".join(_postfix(100))).output


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        (["-"], b"hello\n" * 100, "neither Postfix's log nor Exim's"),
        (["-", "--zone", "Mars/Phobos"], b"", "is no zone"),
        (["-", "--zone", "+25:99"], b"", "is no zone"),
        (["/absent"], b"", "No such file"),
        (["/"], b"", "Is a directory"),
    ],
)
def test_wrong_usage_is_explained(
    run: Callable[..., Result], arguments: list[str], given: bytes, said: str
) -> None:
    result = run(*arguments, given=given)
    assert result.exit_code == 2
    assert said in result.output


def test_a_damaged_file_has_a_status_of_its_own(run: Callable[..., Result], tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(_postfix(20_000)))
    (tmp_path / "x.gz").write_bytes(packed[: len(packed) // 2])
    result = run(str(tmp_path / "x.gz"))
    assert result.exit_code == 2
    assert "what stands before is counted" in result.output


def test_a_store_that_cannot_be_used_is_said(tmp_path: Path, log: str) -> None:
    (tmp_path / "c.toml").write_text('[store]\nurl = "sqlite:////absent/s.db"\n')
    command = ["--config", str(tmp_path / "c.toml"), "report", "import-log", log]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 3
    assert "/absent/s.db: its folder is not there" in result.output


def test_sessions_are_counted_under_the_policy_that_is_kept(
    run: Callable[..., Result], log: str, tmp_path: Path
) -> None:
    body = "version: STSv1\r\nmode: enforce\r\nmx: mx.d1.example\r\nmax_age: 604800\r\n"
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    store.put([Stored("d1.example", "1", body, LAST, LAST + 604800, LAST, LAST)])
    store.close()
    run(log, "--zone", "Z")
    tallies = open_tallies(f"sqlite:///{tmp_path}/s.db")
    types = {
        d: {r.policy.policy_type for r in tallies.results(DAY, d)} for d in tallies.domains(DAY)
    }
    assert types.pop("d1.example") == {"sts"}
    assert set(map(frozenset, types.values())) == {frozenset({"no-policy-found"})}
    tallies.close()
