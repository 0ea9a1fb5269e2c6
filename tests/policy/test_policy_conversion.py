"""A policy in the words of the other dialect: what is kept, what is named as lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given

from smtp_sts.cli import main
from smtp_sts.policy import (
    DraftRecord,
    Policy,
    ReportUri,
    find_draft_record,
    find_record,
)
from smtp_sts.policy.conversion import DEFAULT_MAX_AGE, to_draft, to_rfc8461
from smtp_sts.policy.dialect import Dialect, dialect_of
from smtp_sts.policy.draft00_authentication import well_known
from smtp_sts.tlsrpt import find_record as find_report_record

from .test_draft_record import RECORDS
from .test_policy_language import POLICIES

DOMAIN = "example.com"
DOCUMENT = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.net\r\nmax_age: 604800\r\n"
RECORD = (
    b"v=STS1; to=true; mx=*.example.com,mx.example.net; a=dnssec; c=tlsa; e=604800; "
    b"rua=mailto:r@example.com!10m"
)


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        (DOCUMENT, "rfc8461"),
        (b"", "rfc8461"),
        (b"v=STSv1; id=1;", "rfc8461"),
        (RECORD, "draft00"),
        (b"v = STS1", "draft00"),
        (b'"v=STS1; to=false; " "c=tlsa"\n', "draft00"),
        (b'  ( "v=STS1;" )', "draft00"),
    ],
)
def test_the_dialect_shows_in_the_first_bytes(text: bytes, dialect: Dialect) -> None:
    assert dialect_of(text) == dialect


def _words(losses: tuple[str, ...]) -> list[str]:
    return [loss.split()[0] for loss in losses]


def test_a_record_as_a_policy_of_rfc_8461() -> None:
    record = find_draft_record([RECORD], DOMAIN)
    assert record is not None
    converted = to_rfc8461(record)
    assert converted.policy == Policy("enforce", ("*.example.com", "mx.example.net"), 604800)
    assert _words(converted.losses) == [
        "*.example.com", "c=tlsa:", "a=dnssec:", "rua", "mailto:r@example.com:",
    ]  # fmt: skip


def test_a_record_that_names_nothing_becomes_none_and_says_so() -> None:
    converted = to_rfc8461(DraftRecord("testing"))
    assert converted.policy == Policy("none", (), DEFAULT_MAX_AGE)
    assert _words(converted.losses) == ["mode", "the", "the"]


def test_a_policy_as_a_record_of_the_draft() -> None:
    converted = to_draft(
        Policy.parse(DOCUMENT), well_known(DOMAIN), (ReportUri("mailto:r@example.com", 2**20),)
    )
    assert converted.record.text == (
        "v=STS1; to=true; mx=mx.example.net; "
        "a=webpki:https://example.com/.well-known/smtp-sts/current; c=webpki; e=604800; "
        "rua=mailto:r@example.com!1m"
    )
    assert _words(converted.losses) == ["a"]


@pytest.mark.parametrize(
    ("policy", "text", "lost"),
    [
        (Policy("none", (), 60), "v=STS1; to=false; c=webpki; e=60", "mode none"),
        (Policy("enforce", ("a.example",), 0), "e=1", "max_age 0"),
        (Policy("testing", ("a.example",), 0), "to=false; mx=a.example; c=webpki", "rua"),
        (Policy("enforce", ("*.a.example",), 60), "mx=*.a.example", "any number of labels"),
        (Policy("enforce", ("a.example",), 2_000_000), "e=2000000", "more digits"),
    ],
)
def test_what_the_draft_cannot_say_is_named(policy: Policy, text: str, lost: str) -> None:
    converted = to_draft(policy, None)
    assert text in converted.record.text
    assert any(lost in loss for loss in converted.losses)
    assert any(loss.startswith("without a,") for loss in converted.losses)


@given(POLICIES)
def test_any_policy_becomes_a_valid_record_and_comes_back(policy: Policy) -> None:
    record = to_draft(policy, well_known(DOMAIN)).record
    read = find_draft_record([record.text.encode()], DOMAIN)
    assert read == record
    assert (read.mode == "enforce") is (policy.mode == "enforce")
    back = to_rfc8461(read).policy
    if policy.max_age and policy.mode != "none":
        assert back == policy


@given(RECORDS)
def test_any_record_becomes_a_valid_policy(record: DraftRecord) -> None:
    converted = to_rfc8461(record)
    assert Policy.parse(converted.policy.render()) == converted.policy
    assert converted.policy.mode == record.mode
    assert all(loss.isprintable() for loss in converted.losses)


# -- the command -------------------------------------------------------------------------------


def _convert(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["policy", "convert", str(path), "--domain", DOMAIN, *options])


@pytest.mark.parametrize(
    "text",
    [RECORD, RECORD + b"\n", b'"' + RECORD[:60] + b'" "' + RECORD[60:] + b'"\n',
     b'( "' + RECORD[:60] + b'"\n  "' + RECORD[60:] + b'" )',
     b'"' + RECORD.replace(b";", b"\\;").replace(b"m", b"\\109") + b'"\n"v=spf1 -all"\n',
     b'"v=spf1 -all"\n"' + RECORD + b'"\n'],
)  # fmt: skip
def test_what_to_publish_for_rfc_8461_is_printed(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "r").write_bytes(text)
    result = _convert(tmp_path / "r", "--id", "1")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "; RFC 8461 (MTA-STS)",
        '_mta-sts.example.com. IN TXT "v=STSv1; id=1;"',
        '_smtp._tls.example.com. IN TXT "v=TLSRPTv1; rua=mailto:r@example.com"',
        "; https://mta-sts.example.com/.well-known/mta-sts.txt",
        "version: STSv1",
        "mode: enforce",
        "mx: *.example.com",
        "mx: mx.example.net",
        "max_age: 604800",
    ]
    assert "lost: c=tlsa" in result.stderr


def test_the_id_is_new_at_each_time(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(RECORD)
    data = json.loads(_convert(tmp_path / "r", "--json").stdout)
    assert find_record([data["dns"]["_mta-sts.example.com"].encode()]) is not None
    assert find_report_record([data["dns"]["_smtp._tls.example.com"].encode()]) is not None
    assert Policy.parse(data["body"].encode()).mode == "enforce"
    assert data["losses"]


def test_what_to_publish_for_the_draft_is_printed(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(DOCUMENT + b"future: 1\n")
    result = _convert(tmp_path / "p", "--rua", "mailto:r@example.com!1m", "--tlsa")
    assert result.exit_code == 0
    text = (
        "v=STS1; to=true; mx=mx.example.net; "
        "a=webpki:https://example.com/.well-known/smtp-sts/current; c=tlsa; e=604800; "
        "rua=mailto:r@example.com!1m"
    )
    assert result.stdout.splitlines() == [
        "; draft-margolis-smtp-sts-00",
        f'_smtp_sts.example.com. IN TXT "{text}"',
        "; https://example.com/.well-known/smtp-sts/current, these bytes and no line end",
        text,
    ]
    assert "lost: unknown key 'future'" in result.stderr
    data = json.loads(_convert(tmp_path / "p", "--authentication", "dnssec", "--json").stdout)
    assert data["dns"]["_smtp_sts.example.com"].endswith("a=dnssec; c=webpki; e=604800")
    assert (data["url"], data["body"]) == ("", "")


def test_a_long_record_is_cut_into_character_strings(tmp_path: Path) -> None:
    mx = b"".join(b"mx: mail%d.example.net\r\n" % n for n in range(30))
    (tmp_path / "p").write_bytes(DOCUMENT + mx)
    line = _convert(tmp_path / "p").stdout.splitlines()[1]
    strings = line.partition(" IN TXT ")[2].strip("( )").split('" "')
    assert max(len(s.strip('"')) for s in strings) == 255
    assert len(strings) == 3
    again = tmp_path / "again"
    again.write_text(line.partition(" IN TXT ")[2])
    assert _convert(again).stdout.count("mx: mail") == 30


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (b"", (), "policy-no-version"),
        (b"v=STS1; to=maybe", (), "column 9"),
        (b"v=STS1; to=true; mx=a.example; e=0", (), "record-lifetime"),
        (RECORD, ("--from", "rfc8461"), "policy-line"),
        (DOCUMENT, ("--from", "draft00"), "record-none"),
        (DOCUMENT, ("--authentication", "https://mallory.example/"), "leads to mallory.example"),
        (DOCUMENT, ("--authentication", "https://u:p@example.com/"), "user name"),
        (DOCUMENT, ("--rua", "mailto:r@example.com!10x"), "no size"),
        (RECORD, ("--id", "a-b"), "letters and digits"),
        (b"\xff\x00\x1b[2J", (), "policy-not-utf8"),
        (b"x" * 70_000, (), "policy-too-large"),
    ],
)
def test_bad_input_says_what_is_wrong(
    tmp_path: Path, text: bytes, options: tuple[str, ...], says: str
) -> None:
    (tmp_path / "p").write_bytes(text)
    result = _convert(tmp_path / "p", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in " ".join(result.stderr.split())
    assert "\x1b" not in result.stderr


def test_a_domain_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(DOCUMENT)
    result = CliRunner().invoke(
        main, ["policy", "convert", str(tmp_path / "p"), "--domain", "localhost"]
    )
    assert result.exit_code == 2
    assert "--domain" in result.stderr
