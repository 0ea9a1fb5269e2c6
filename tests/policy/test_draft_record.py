"""The record of the first draft: what is read, what is refused, what holds for any input."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.policy import (
    MAX_AGE,
    Authentication,
    DraftRecord,
    Policy,
    RecordError,
    ReportUri,
    body_difference,
    body_matches,
    draft_record_name,
    find_draft_record,
)

DOMAIN = "example.com"
URL = "https://example.com/.well-known/smtp-sts/current"
WEBPKI = Authentication("webpki", DOMAIN, "/.well-known/smtp-sts/current")
TEXT = (
    f"v=STS1; to=true; mx=*.example.com,mail.example.net; a=webpki:{URL}; c=webpki; "
    "e=2592000; rua=mailto:reports@example.com!10m"
)
RECORD = DraftRecord(
    mode="enforce",
    mx=("*.example.com", "mail.example.net"),
    authentication=WEBPKI,
    constraint="webpki",
    lifetime=2592000,
    rua=(ReportUri("mailto:reports@example.com", 10 * 2**20),),
    text=TEXT,
)
ENFORCED = "v=STS1; to=true; mx=mail.example.com; e=86400"


def _read(text: str) -> DraftRecord:
    record = find_draft_record([text.encode()], DOMAIN)
    assert record is not None
    return record


def _meaning(record: DraftRecord) -> tuple[object, ...]:
    return (
        record.mode, record.mx, record.authentication, record.constraint, record.lifetime,
        record.rua,
    )  # fmt: skip


def test_every_field_is_read() -> None:
    assert _read(TEXT) == RECORD
    assert RECORD.render() == TEXT
    assert draft_record_name(DOMAIN) == "_smtp_sts.example.com"


def test_what_means_the_same_in_rfc_8461_is_its_policy() -> None:
    policy = RECORD.policy
    assert policy == Policy("enforce", RECORD.mx, 2592000, "STS1")
    assert policy != Policy("enforce", RECORD.mx, 2592000)  # never taken for one of RFC 8461


def test_the_report_only_example_of_appendix_2_is_read() -> None:
    strings = (b"v=STS1; to=false; ", b"rua=mailto:sts-feedback@example.com ")
    record = find_draft_record([b"".join(strings)], DOMAIN)
    assert record is not None
    assert _meaning(record) == (
        "testing", (), None, "webpki", 0, (ReportUri("mailto:sts-feedback@example.com"),),
    )  # fmt: skip
    assert record.matches("any.host.example")


@pytest.mark.parametrize(
    "text",
    [
        TEXT + ";",
        TEXT + " ; ",
        TEXT.replace("=", " =\t "),
        TEXT.replace("; ", ";"),
        TEXT.replace("; ", "\t ;\t"),
        TEXT.replace("v=", "V=").replace("to=true", "TO=True").replace("c=webpki", "C=WebPKI"),
        TEXT.replace("*.example.com", "_.example.com"),
        TEXT.replace("*.example.com,", "*.Example.COM , "),
        TEXT.replace("a=webpki:", "a="),
        TEXT.replace("a=webpki:https://example.com", "a=WEBPKI:HTTPS://EXAMPLE.com"),
        TEXT.replace("mailto:reports@", "reports@"),
        TEXT.replace("mailto:", "MAILTO:").replace("!10m", "!10M"),
        TEXT.replace("!10m", "!10485760"),
        TEXT.replace("!10m", "!10240k"),
        TEXT.replace("e=2592000", "e=0002592000"),
        f"v=STS1; rua=mailto:reports@example.com!10m; e=2592000; c=webpki; a=webpki:{URL}; "
        "mx=*.example.com,mail.example.net; to=true",
    ],
)
def test_tolerated_forms_mean_the_same(text: str) -> None:
    record = _read(text)
    assert _meaning(record) == _meaning(RECORD)
    assert record.text == text
    assert record.render() == TEXT
    assert record.skipped == ()


@pytest.mark.parametrize(
    "records",
    [[], [b""], [b"v=spf1 -all"], [b"v=STSv1; id=1;"], [b"v=STS10; to=true"], [b"v=sts1; to=true"],
     [b" v=STS1; to=false"], [b"to=false; v=STS1"], [b"v=STS1x"], [b"v=STS2; to=true"]],
)  # fmt: skip
def test_records_of_others_do_not_count(records: list[bytes]) -> None:
    assert find_draft_record(records, DOMAIN) is None


@pytest.mark.parametrize(
    ("text", "slug", "column"),
    [
        ("v=STS1", "record-no-to", None),
        ("v=STS1; to=yes", "record-to", 9),
        ("v=STS1; to=", "record-to", 9),
        ("v=STS1; to=true; e=86400", "record-no-mx", None),
        ("v=STS1; to=true; mx=mail.example.com", "record-no-e", None),
        ("v=STS1; to=false; to=true", "record-field-twice", 19),
        (f"{ENFORCED}; MX=mail.example.net", "record-field-twice", 48),
        ("v=STS1; v=STS1; to=false", "record-field-twice", 9),
        (f"{ENFORCED}; mix=1", "record-unknown-field", 48),
        (f"{ENFORCED}; id=1", "record-unknown-field", 48),
        (f"{ENFORCED}; =1", "record-unknown-field", 48),
        (f"{ENFORCED}; rua", "record-field", 48),
        (f"{ENFORCED}; ; c=tlsa", "record-empty-field", 48),
        ("v=STS1; to=false; e=0", "record-lifetime", 19),
        ("v=STS1; to=false; e=000", "record-lifetime", 19),
        ("v=STS1; to=false; e=" + "9" * 40, "record-lifetime", 19),
        ("v=STS1; to=false; e=-1", "record-lifetime", 19),
        ("v=STS1; to=false; e=1d", "record-lifetime", 19),
        ("v=STS1; to=false; e=", "record-lifetime", 19),
        (f"{ENFORCED}; c=dane", "record-constraint", 48),
        (f"{ENFORCED}; a=", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki", "record-authentication", 48),
        (f"{ENFORCED}; a=http://example.com/p", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://mallory.example/p", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://badexample.com/p", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://example.com.mallory.example/p", "record-authentication",
         48),
        (f"{ENFORCED}; a=webpki:https://com/p", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://user:secret@example.com/p", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://example.com@mallory.example/p", "record-authentication",
         48),
        (f"{ENFORCED}; a=webpki:https://example.com:8443/p", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://example.com:443/p", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://example.com/p#x", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://example.com\\@mallory.example/", "record-authentication",
         48),
        (f"{ENFORCED}; a=webpki:https://[::1]/p", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://127.0.0.1/p", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https:///p", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://example.com/a b", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://example.com/%zz", "record-authentication", 48),
        (f"{ENFORCED}; a=webpki:https://example.com/" + "x" * 2048, "record-authentication", 48),
        ("v=STS1; to=false; mx=", "record-mx", 19),
        ("v=STS1; to=false; mx=a.example,,b.example", "record-mx", 19),
        ("v=STS1; to=false; mx=__.example.com", "record-mx", 19),
        ("v=STS1; to=false; mx=localhost", "record-mx", 19),
        ("v=STS1; to=false; mx=192.0.2.1", "record-mx", 19),
        ("v=STS1; to=false; mx=a.example policy_type=sts", "record-mx", 19),
        ("v=STS1; to=false\n", "record-not-ascii", 17),
        ("v=STS1; to=false; rua=ä@example.com", "record-not-ascii", 23),
        ("v=STS1; to=false\x00", "record-not-ascii", 17),
    ],
)  # fmt: skip
def test_an_invalid_record_says_what_and_where(text: str, slug: str, column: int | None) -> None:
    with pytest.raises(RecordError) as caught:
        find_draft_record([text.encode()], DOMAIN)
    assert (caught.value.slug, caught.value.column) == (slug, column)
    assert str(caught.value).isprintable()


def test_two_records_are_none() -> None:
    with pytest.raises(RecordError, match="publish exactly one"):
        find_draft_record([TEXT.encode(), TEXT.encode()], DOMAIN)


@pytest.mark.parametrize("host", ["example.com", "sts.example.com", "a.b.example.com"])
def test_law_5_the_policy_is_served_at_its_domain_or_below(host: str) -> None:
    record = _read(f"{ENFORCED}; a=webpki:https://{host}/p?q=1,2")
    assert record.authentication == Authentication("webpki", host, "/p?q=1,2")
    assert record.authentication.url == f"https://{host}/p?q=1,2"


def test_a_url_without_a_path_is_that_of_the_root() -> None:
    assert _read(f"{ENFORCED}; a=https://example.com").authentication == Authentication(
        "webpki", DOMAIN, "/"
    )


def test_an_unknown_field_is_told_its_neighbour() -> None:
    with pytest.raises(RecordError, match="mx is meant"):
        _read("v=STS1; to=false; mxs=a.example")


def test_a_policy_for_dnssec_and_tlsa() -> None:
    record = _read(f"{ENFORCED}; a=DNSSEC; c=TLSA")
    assert record.authentication == Authentication("dnssec")
    assert record.authentication.url == ""
    assert record.constraint == "tlsa"


def test_a_lifetime_over_a_year_is_capped() -> None:
    assert _read("v=STS1; to=false; e=9999999999").lifetime == MAX_AGE
    assert _read("v=STS1; to=false; e=1").lifetime == 1


@pytest.mark.parametrize(
    ("pattern", "host", "right"),
    [
        ("mail.example.com", "MAIL.Example.com.", True),
        ("mail.example.com", "a.mail.example.com", False),
        ("*.example.com", "mail.example.com", True),
        ("*.example.com", "a.b.example.com.", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "mailexample.com", False),
        ("*.example.com", "mail.example.com.mallory.example", False),
        ("kelvin.example.com", "\u212aelvin.example.com", False),
        ("*.example.com", "", False),
    ],
)
def test_a_pattern_covers_subdomains_of_any_depth(pattern: str, host: str, right: bool) -> None:
    assert DraftRecord("enforce", (pattern,)).matches(host) is right


# -- rua --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rua", "limit", "rendered"),
    [
        ("mailto:a@example.com", None, ""),
        ("mailto:a@example.com!0", 0, "!0"),
        ("mailto:a@example.com!1", 1, "!1"),
        ("mailto:a@example.com!50k", 50 * 2**10, "!50k"),
        ("mailto:a@example.com!1025k", 1025 * 2**10, "!1025k"),
        ("mailto:a@example.com!2048", 2048, "!2k"),
        ("mailto:a@example.com!3G", 3 * 2**30, "!3g"),
        ("mailto:a@example.com !1t", 2**40, "!1t"),
        ("mailto:a@example.com!18446744073709551615t", (2**64 - 1) * 2**40,
         "!18446744073709551615t"),
    ],
)  # fmt: skip
def test_sizes_are_powers_of_two(rua: str, limit: int | None, rendered: str) -> None:
    (uri,) = _read(f"v=STS1; to=false; rua={rua}").rua
    assert uri == ReportUri("mailto:a@example.com", limit)
    assert uri.render() == f"mailto:a@example.com{rendered}"


@pytest.mark.parametrize(
    "rua",
    ["mailto:a@example.com!", "mailto:a@example.com!10x", "mailto:a@example.com!-1",
     "mailto:a@example.com!1.5m", "mailto:a@example.com!18446744073709551616",
     "mailto:a@example.com!" + "9" * 40, "mailto:a@example.com!1!2", "https://example.com/r",
     "file:/etc/passwd", "nonsense", "mailto:a b@example.com", "mailto:\"x\"@example.com",
     "mailto:" + "a" * 2100 + "@example.com"],
)  # fmt: skip
def test_an_unusable_report_address_costs_no_policy(rua: str) -> None:
    record = _read(f"{ENFORCED}; rua={rua},mailto:b@example.com")
    assert record.rua == (ReportUri("mailto:b@example.com"),)
    assert len(record.skipped) == 1
    assert record.skipped[0].isprintable()


def test_report_addresses_are_bounded_and_each_stands_once() -> None:
    many = ",".join(f"mailto:r{n}@example.com" for n in range(40))
    record = _read(f"v=STS1; to=false; rua=mailto:r0@example.com,,{many}")
    assert [uri.uri for uri in record.rua] == [f"mailto:r{n}@example.com" for n in range(10)]
    assert len(record.skipped) == 10


# -- section 3.3: the body --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (TEXT.encode() + b"\n", "after the record"),
        (TEXT.encode() + b" ", "after the record"),
        (TEXT.encode()[:-1], "ends after"),
        (b"", "ends after 0 bytes"),
        (TEXT.encode().replace(b"; to", b";  to"), "at byte 9"),
        (TEXT.encode().replace(b"true", b"True"), "at byte 12"),
        (b"\xef\xbb\xbf" + TEXT.encode(), "at byte 1"),
        (b"\xff\x00\x1b[2J", "at byte 1"),
    ],
)
def test_a_body_that_differs_by_one_byte_is_another(body: bytes, says: str) -> None:
    assert not body_matches(RECORD, body)
    assert says in body_difference(RECORD, body)
    assert body_difference(RECORD, body).isprintable()


def test_the_body_is_held_against_the_text_as_published() -> None:
    odd = TEXT.replace("; ", " ;\t") + ";"
    assert body_matches(_read(odd), odd.encode())
    assert body_difference(_read(odd), odd.encode()) == ""
    assert not body_matches(_read(odd), TEXT.encode())


# -- what holds for any input -----------------------------------------------------------------

_label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
_host = st.builds(lambda a, b: f"{a}.{b}.example", _label, _label)
_pattern = st.one_of(_host, _host.map(lambda host: f"*.{host}"))
_authentication = st.one_of(
    st.none(),
    st.just(Authentication("dnssec")),
    st.builds(
        lambda label, target: Authentication("webpki", f"{label}{DOMAIN}", f"/{target}"),
        st.one_of(st.just(""), _label.map(lambda label: f"{label}.")),
        st.from_regex(r"([a-z0-9./?=,!&-]|%[0-9A-F]{2}){0,20}", fullmatch=True),
    ),
)
_rua = st.builds(
    lambda name, limit: ReportUri(f"mailto:{name}@example.com", limit),
    st.from_regex(r"([a-z]|%21){1,8}", fullmatch=True),
    st.one_of(st.none(), st.integers(0, 2**64 - 1)),
)
RECORDS = st.builds(
    DraftRecord,
    mode=st.sampled_from(("enforce", "testing")),
    mx=st.lists(_pattern, min_size=1, max_size=5, unique=True).map(tuple),
    authentication=_authentication,
    constraint=st.sampled_from(("webpki", "tlsa")),
    lifetime=st.integers(1, MAX_AGE),
    rua=st.lists(_rua, max_size=3, unique_by=lambda uri: uri.uri).map(tuple),
)
_pieces = st.lists(
    st.sampled_from([b"to", b"mx", b"a", b"c", b"e", b"rua", b"=", b";", b"; ", b" ", b"\t", b",",
                     b"true", b"false", b"webpki", b":", b"https://example.com/", b"dnssec",
                     b"tlsa", b"mailto:a@b.example", b"!1k", b"86400", b"*.", b"_.", b"a.example",
                     b"\xff", b"\x00", b"v=STS1"]),
    max_size=40,
).map(b"".join)  # fmt: skip


@given(RECORDS)
def test_parse_after_render_is_the_identity(record: DraftRecord) -> None:
    text = record.render()
    read = _read(text)
    assert _meaning(read) == _meaning(record)
    assert (read.text, read.render(), read.skipped) == (text, text, ())
    assert body_matches(read, text.encode())


@given(st.one_of(
    st.binary(max_size=300),
    st.one_of(st.binary(max_size=80), _pieces).map(b"v=STS1; to=false".__add__),
    st.one_of(st.binary(max_size=80), _pieces).map(ENFORCED.encode().__add__),
))  # fmt: skip
def test_nothing_but_record_errors_comes_out(raw: bytes) -> None:
    try:
        record = find_draft_record([raw], DOMAIN)
    except RecordError as error:
        assert str(error).isprintable()  # law 5: it will stand in a log
        return
    if record is None:
        return
    assert body_matches(record, raw)
    assert all(re.fullmatch(r"(\*\.)?[a-z0-9.-]+", mx) for mx in record.mx)
    assert record.authentication is None or re.fullmatch(
        r"|https://([a-z0-9-]+\.)*example\.com/[!-:<-~]*", record.authentication.url
    )
    assert record.mode == "testing" or (record.mx and record.lifetime)
    assert all(re.fullmatch(r"mailto:[!-~]+", uri.uri) for uri in record.rua)
    assert _meaning(_read(record.render())) == _meaning(record)
