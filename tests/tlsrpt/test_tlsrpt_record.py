"""The `_smtp._tls` record: tables of cases, and what holds for any input (RFC 8460 section 3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.tlsrpt import Destination, Record, RecordError, find_record, record_name
from smtp_sts.tlsrpt.names import ip_address
from smtp_sts.tlsrpt.record import MAX_DESTINATIONS

MAILBOX = Destination("mailto", "r@example.com")


@pytest.mark.parametrize(
    ("records", "targets"),
    [
        ([b"v=TLSRPTv1;rua=mailto:r@example.com"], ["r@example.com"]),
        ([b"v=TLSRPTv1; rua=mailto:r@example.com;"], ["r@example.com"]),
        (
            [b"v=TLSRPTv1; rua=mailto:r@example.com", b"v=TLSRPTv1 ; rua=mailto:s@example.com"],
            ["r@example.com"],
        ),
        ([b"v=TLSRPTv1; rua=mailto:r@m%C3%BCnchen.example"], ["r@xn--mnchen-3ya.example"]),
        ([b"v=TLSRPTv1; ext.1=x:y; rua=mailto:r@example.com; more=1"], ["r@example.com"]),
        ([b"v=TLSRPTv1; rua=MAILTO:r@EXAMPLE.com"], ["r@example.com"]),
        ([b"v=TLSRPTv1; rua=mailto:%2F/r@example.com"], ["//r@example.com"]),
        ([b"v=TLSRPTv1; rua=mailto://r@example.com,mailto:r@example.com"], ["r@example.com"]),
        ([b"v=TLSRPTv1; rua=mailto:R@example.com"], ["R@example.com"]),
        ([b"v=TLSRPTv1; rua=mailto:a%2Bb%21c@example.com"], ["a+b!c@example.com"]),
        ([b"v=TLSRPTv1; rua=mailto:r@example.com?subject=x"], ["r@example.com"]),
        (
            [b"v=TLSRPTv1; rua=https://r.example/v1?a=b%2Cc , mailto:r@example.com"],
            ["https://r.example/v1?a=b%2Cc", "r@example.com"],
        ),
        ([b"v=TLSRPTv1; rua=HTTPS://R.Example:443/V1#top"], ["https://r.example/V1"]),
        ([b"v=TLSRPTv1; rua=https://r.example:8443"], ["https://r.example:8443"]),
        ([b"v=TLSRPTv1; rua=https://r.example?x"], ["https://r.example/?x"]),
        ([b"v=TLSRPTv1; rua=https://[2001:DB8::1]/"], ["https://[2001:db8::1]/"]),
        ([b"v=TLSRPTv1; rua=mailto:a@x.example; rua=mailto:b@x.example"],
         ["a@x.example", "b@x.example"]),
        ([b"v=TLSRPTv1; rua=ftp://x,mailto:r@example.com"], ["r@example.com"]),
        ([b"v=TLSRPTv1; rua=mailto:r@example.com!10m,mailto:r@example.com"], ["r@example.com"]),
        ([b"v=spf1 -all", b"v=TLSRPTv12;x=y", b"v=TLSRPTv1;rua=mailto:r@example.com"],
         ["r@example.com"]),
    ],
)  # fmt: skip
def test_the_destinations_of_a_record(records: list[bytes], targets: list[str]) -> None:
    record = find_record(records)
    assert record is not None
    assert [d.target for d in record.rua] == targets


@pytest.mark.parametrize(
    "records",
    [[], [b""], [b"v=TLSRPTv1"], [b"v=tlsrptv1; rua=mailto:r@x.example"],
     [b" v=TLSRPTv1; rua=mailto:r@x.example"], [b"v=TLSRPTv10; rua=mailto:r@x.example"],
     [b"rua=mailto:r@x.example; v=TLSRPTv1"]],
)  # fmt: skip
def test_records_of_others_do_not_count(records: list[bytes]) -> None:
    assert find_record(records) is None


@pytest.mark.parametrize(
    ("records", "slug"),
    [
        ([b"v=TLSRPTv1; rua=mailto:a@x.example"] * 2, "multiple-records"),
        ([b"v=TLSRPTv1;"], "record-no-rua"),
        ([b"v=TLSRPTv1; x=y"], "record-no-rua"),
        ([b"v=TLSRPTv1; rua="], "record-no-destination"),
        ([b"v=TLSRPTv1; rua=reports@example.com"], "record-no-destination"),
        ([b"v=TLSRPTv1; rua=http://r.example/"], "record-no-destination"),
        ([b"v=TLSRPTv1; mailto:r@x.example"], "record-field"),
    ],
)
def test_an_unusable_record_says_why(records: list[bytes], slug: str) -> None:
    with pytest.raises(RecordError) as caught:
        find_record(records)
    assert caught.value.slug == slug


def test_a_record_error_names_the_column() -> None:
    with pytest.raises(RecordError) as caught:
        find_record([b"v=TLSRPTv1; rua=mailto:r@x.example;  oops"])
    assert caught.value.place == "column 38"


@pytest.mark.parametrize(
    "uri",
    [
        b"mailto:r@example.com\r\nBcc: x@example.com",
        b"mailto:r%0D%0ABcc%3Ax@example.com",
        b"mailto:-oQ/tmp@example.com",
        b"mailto:a@b@example.com",
        b"mailto:a@b.example%2Cc@d.example",
        b'mailto:"a b"@example.com',
        b"mailto:%22a%22@example.com",
        b"mailto:a@192.0.2.1",
        b"mailto:a@[192.0.2.1]",
        b"mailto:@example.com",
        b"mailto:" + b"a" * 65 + b"@example.com",
        b"mailto:|rm@`id`.example",
        b"mailto:\xc3\xa4@example.com",
        b"https://user:secret@r.example/",
        b"https://r.example/[1-50]",
        b"https://r.example/{a}",
        b"https://r.example/a b",
        b"https://r.example\\@evil.example/",
        b"https:r.example/",
        b"https:///path",
        b"https://r.example:0/",
        b"https://r.example:99999/",
        b"https://1.2.3/",
        b"https://2130706433/",
        b"https://0x7f.1/",
        b"file:///etc/passwd",
        b"https://r.example/" + b"a" * 3000,
    ],
)
def test_law_5_a_destination_that_could_inject_is_skipped(uri: bytes) -> None:
    record = find_record([b"v=TLSRPTv1; rua=" + uri + b", mailto:r@example.com"])
    assert record is not None
    assert record.rua == (MAILBOX,)
    assert len(record.skipped) == 1


def test_a_uri_that_stands_twice_counts_once() -> None:
    """A duplicate URI ended another reporter at every start."""
    uri = b"mailto:r@example.com"
    record = find_record([b"v=TLSRPTv1; rua=" + b",".join([uri, uri, b"MAILTO:r@Example.Com"])])
    assert record == Record((MAILBOX,))


def test_a_thousand_uris_are_bounded() -> None:
    uris = b",".join(b"mailto:r%d@example.com" % n for n in range(1000))
    record = find_record([b"v=TLSRPTv1; rua=" + uris])
    assert record is not None
    assert len(record.rua) == MAX_DESTINATIONS
    assert len(record.skipped) == MAX_DESTINATIONS


def test_where_the_record_stands() -> None:
    assert record_name("example.com") == "_smtp._tls.example.com"


def _labels() -> st.SearchStrategy[str]:
    return st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\.(example|test)", fullmatch=True)


_mailto = st.builds(
    lambda local, domain: Destination("mailto", f"{local}@{domain}"),
    st.from_regex(
        r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~][A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{0,20}", fullmatch=True
    ),
    _labels(),
)
_https = st.builds(
    lambda domain, port, path: Destination("https", f"https://{domain}{port}/{path}"),
    _labels(),
    st.sampled_from(["", ":8443", ":1"]),
    st.from_regex(r"([A-Za-z0-9._~$&'()*+=:@/?-]|%[0-9A-F]{2}){0,20}", fullmatch=True),
)


@given(st.lists(st.one_of(_mailto, _https), min_size=1, max_size=MAX_DESTINATIONS, unique=True))
def test_reading_what_was_rendered_is_the_identity(destinations: list[Destination]) -> None:
    record = Record(tuple(destinations))
    assert find_record([record.render().encode()]) == record


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.binary(max_size=200).map(lambda tail: b"v=TLSRPTv1;" + tail),
            st.binary(max_size=100).map(lambda tail: b"v=TLSRPTv1; rua=https://" + tail),
            st.binary(max_size=100).map(lambda tail: b"v=TLSRPTv1; rua=mailto:" + tail),
        ),
        max_size=2,
    )
)
def test_any_bytes_give_a_record_none_or_the_declared_error(records: list[bytes]) -> None:
    try:
        record = find_record(records)
    except RecordError as error:
        assert str(error).isprintable()
        return
    for destination in record.rua if record else ():
        assert destination.target.isascii()
        assert destination.target.isprintable()
        assert not set(destination.target) & set(' "<>\\,;[{') - {"["}


@pytest.mark.parametrize("blank", [b" ", b"\t", b" \t "])
def test_a_blank_before_the_first_semicolon_is_no_record(blank: bytes) -> None:
    """RFC 8460 section 3, read as RFC 8461 section 3.1 by erratum 6285."""
    assert find_record([b"v=TLSRPTv1" + blank + b"; rua=mailto:r@example.com"]) is None


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("::ffff:c000:201", "::ffff:192.0.2.1"),
        ("::FFFF:192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("::1", "::1"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_addresses_are_written_as_rfc_5952_has_them(text: str, written: str) -> None:
    assert ip_address(text) == written
