"""Reports as mail and as files: what is sent, and what is found (RFC 8460 section 5)."""

from __future__ import annotations

import base64
import email
import email.policy
import gzip
import io
import zipfile
import zlib
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.tlsrpt import (
    EnvelopeError,
    ReportError,
    TlsrptError,
    compose,
    file_name,
    open_report,
    pack,
    subject,
    unpack,
)

from .samples import REPORT, REPORTS

NOW = datetime(2026, 4, 2, 1, 2, 3, tzinfo=UTC)
TO = "reports@company-y.example"
DOMAIN = "company-y.example"


def _mail() -> bytes:
    return compose(REPORT, DOMAIN, TO, "00a1", NOW)


def test_the_mail_has_the_headers_and_parts_of_the_rfc() -> None:
    message = email.message_from_bytes(_mail(), policy=email.policy.default)
    assert message["From"] == "sts-reporting@company-x.example"
    assert message["To"] == TO
    assert message["Subject"] == subject(REPORT, DOMAIN)
    assert message["TLS-Report-Domain"] == DOMAIN
    assert message["TLS-Report-Submitter"] == "company-x.example"
    assert message["TLS-Required"] == "No"
    assert message["Date"].datetime == NOW
    assert message["Message-ID"] == "<00a1.5065427c-23d3-47ca@company-x.example>"
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "tlsrpt"
    people, machine = list(message.iter_parts())
    assert people.get_content_type() == "text/plain"
    assert "303" in people.get_content()
    assert machine.get_content_type() == "application/tlsrpt+gzip"
    assert (
        machine.get_filename()
        == "company-x.example!company-y.example!1775001600!1775087999!00a1.json.gz"
    )
    assert gzip.decompress(machine.get_content()) == REPORT.render()
    assert not message.defects


def test_the_subject_is_of_the_form_of_the_rfc() -> None:
    assert subject(REPORT, DOMAIN) == (
        "Report Domain: company-y.example Submitter: company-x.example "
        "Report-ID: <5065427c-23d3-47ca@company-x.example>"
    )


@given(REPORTS)
def test_the_report_in_any_composed_mail_is_found_again(report: object) -> None:
    assert isinstance(report, type(REPORT))
    mail = compose(report, DOMAIN, TO, "1", NOW)
    enclosed = open_report(mail)
    assert enclosed.read.report == report
    assert (enclosed.domain, enclosed.submitter) == (DOMAIN, report.submitter)
    assert enclosed.file_name == file_name(report, DOMAIN, "1")
    assert max(map(len, mail.split(b"\r\n"))) <= 998
    assert mail.isascii()
    assert b"\n" not in mail.replace(b"\r\n", b"")


@pytest.mark.parametrize(
    ("domain", "recipient", "unique", "slug"),
    [
        ("x\r\nBcc: y@z.example", TO, "1", "policy-domain"),
        ("", TO, "1", "policy-domain"),
        (DOMAIN, "x@y.example\r\nBcc: z@z.example", "1", "recipient"),
        (DOMAIN, "x@y.example, z@z.example", "1", "recipient"),
        (DOMAIN, TO, "a/b", "unique-id"),
        (DOMAIN, TO, "", "unique-id"),
    ],
)
def test_law_5_nothing_unchecked_stands_in_a_header(
    domain: str, recipient: str, unique: str, slug: str
) -> None:
    with pytest.raises(EnvelopeError) as caught:
        compose(REPORT, domain, recipient, unique, NOW)
    assert caught.value.slug == slug


def _zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return buffer.getvalue()


JSON = REPORT.render()


@pytest.mark.parametrize(
    "data",
    [
        JSON,
        b"\r\n " + JSON,
        b"\xef\xbb\xbf" + JSON,
        JSON.decode().encode("utf-16"),
        pack(JSON),
        pack(JSON[:100]) + pack(JSON[100:]),
        pack(JSON) + b"trailing \x00 bytes",
        _zip({"r.json": JSON}),
        _zip({"../../etc/passwd": JSON}, zipfile.ZIP_STORED),
    ],
)
def test_a_report_is_found_by_what_it_is(data: bytes) -> None:
    assert open_report(data).read.report == REPORT


def _wrapped(media_type: str, name: str, content: bytes, encoding: str = "base64") -> bytes:
    body = base64.encodebytes(content) if encoding == "base64" else content
    disposition = f"Content-Disposition: attachment; {name}\n" if name else ""
    return (
        (
            "From: Big Sender <noreply@sender.example>\nTo: r@company-y.example\n"
            "Subject: Report Domain: company-y.example Submitter: sender.example Report-ID: 1@x\n"
            "TLS-Report-Domain: Company-Y.example\nTLS-Report-Submitter: sender.example\n"
            'Content-Type: multipart/report; boundary="b"; report-type=tlsrpt\n\n'
            "--b\nContent-Type: text/html\n\n<p>{not json}</p>\n"
            f"--b\nContent-Type: {media_type}\nContent-Transfer-Encoding: {encoding}\n"
            f"{disposition}\n"
        ).encode()
        + body
        + b"\n--b--\n"
    )


@pytest.mark.parametrize(
    "mail",
    [
        _wrapped("application/tlsrpt+gzip", 'filename="a!b!1!2.json.gz"', pack(JSON)),
        _wrapped("application/tlsrpt+json", "", JSON),
        _wrapped("application/tlsrpt+json", "", JSON, "8bit"),
        _wrapped("application/tlsrpt", "", pack(JSON)),
        _wrapped("application/tlsrpt+x-gzip", "", pack(JSON)),
        _wrapped("application/tlsrpt+zip", "", _zip({"a.json": JSON})),
        _wrapped("application/gzip", 'filename="a.json.gz"', pack(JSON)),
        _wrapped("application/octet-stream", "filename*0=a.js; filename*1=on.gz", pack(JSON)),
        _wrapped("application/octet-stream", "filename*=UTF-8''a%21b.json", JSON),
        _wrapped("application/octet-stream", "filename*=nonsense''%ff", JSON),
        _wrapped("text/plain", "", JSON, "7bit"),
        b"From x Thu Jan  1 00:00:00 2026\n" + _wrapped("application/tlsrpt", "", pack(JSON)),
        # base64 that strict decoders refuse (Google): no padding, odd line lengths
        _wrapped("application/tlsrpt+gzip", "", b"X").replace(
            base64.encodebytes(b"X"), base64.b64encode(pack(JSON)).rstrip(b"=") + b" \n"
        ),
    ],
)
def test_the_mails_of_others_are_read(mail: bytes) -> None:
    enclosed = open_report(mail)
    assert enclosed.read.report == REPORT
    assert (enclosed.domain, enclosed.submitter) == ("company-y.example", "sender.example")


DMARC = (
    b"<?xml version='1.0'?><feedback><version>1.0</version><report_metadata/><policy_published/>"
    b"</feedback>"
)


@pytest.mark.parametrize(
    ("data", "slug"),
    [
        (b"", "not-a-report"),
        (b"\x00\x01", "not-a-report"),
        (DMARC, "report-dmarc"),
        (b"\x1f\x8b", "gzip-truncated"),
        (pack(JSON)[:-10], "gzip-truncated"),
        (b"\x1f\x8b" + b"\xff" * 30, "gzip-damaged"),
        (pack(JSON)[:40] + b"\x00" * 40 + pack(JSON)[80:], "gzip-damaged"),
        (pack(b"") * 100, "gzip-members"),
        (b"PK\x03\x04 no zip", "zip-damaged"),
        (_zip({"a": JSON, "b": JSON}), "zip-files"),
        (_zip({"a": JSON}, zipfile.ZIP_LZMA), "zip-method"),
        (pack(DMARC), "report-dmarc"),
        (_wrapped("application/gzip", 'filename="x!y!1!2.xml.gz"', pack(DMARC)), "report-dmarc"),
        (b"Subject: Buy now\n\nCheap policies.\n", "mail-no-report"),
        (_wrapped("application/tlsrpt+gzip", "", b"nothing"), "mail-no-report"),
    ],
)
def test_what_holds_no_report_is_refused_with_a_reason(data: bytes, slug: str) -> None:
    with pytest.raises(TlsrptError) as caught:
        open_report(data)
    assert caught.value.slug == slug


def _bomb(size: int) -> bytes:
    """gzip of so many megabytes of blanks, made without holding them."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(b" " * 1_000_000) for _ in range(size)) + packer.flush()


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(_bomb(500), id="gzip"),
        pytest.param(_bomb(20) * 10, id="members"),
        pytest.param(_zip({"a.json": b" " * 200_000_000}), id="zip"),
    ],
)
def test_a_bomb_is_not_unpacked(bomb: bytes) -> None:
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(EnvelopeError) as caught:
        open_report(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.slug == "unpacked-too-large"
    assert peak < 80_000_000


def test_a_report_from_before_the_limit_is_unpacked_whole() -> None:
    assert unpack(pack(b"x" * 1000), limit=1000) == b"x" * 1000
    with pytest.raises(EnvelopeError):
        unpack(pack(b"x" * 1001), limit=1000)


def test_a_mail_nested_without_end_is_refused() -> None:
    parts = (f'Content-Type: multipart/mixed; boundary="{n}"\n\n--{n}\n' for n in range(3000))
    with pytest.raises(EnvelopeError) as caught:
        open_report("".join(parts).encode())
    assert caught.value.slug in {"mail-too-deep", "mail-parts"}


def test_many_parts_are_not_all_looked_at() -> None:
    parts = b"--b\nContent-Type: application/tlsrpt+gzip\n\nx\n" * 10_000
    with pytest.raises(EnvelopeError):
        open_report(b'Content-Type: multipart/mixed; boundary="b"\n\n' + parts)


@given(st.binary(max_size=400), st.integers(0, 5))
def test_any_bytes_give_a_report_or_a_declared_error(data: bytes, kind: int) -> None:
    prefix = (
        b"", b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"Content-Type: ",
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Disposition: attachment; ",
        b"Content-Type: application/tlsrpt+json\nContent-Transfer-Encoding: base64\n\n",
    )[kind]  # fmt: skip
    try:
        open_report(prefix + data)
    except TlsrptError as error:
        assert str(error).isprintable()


@given(st.integers(0, 5000), st.binary(min_size=1, max_size=20), st.booleans())
def test_any_damage_to_a_real_file_gives_a_report_or_a_declared_error(
    at: int, junk: bytes, zipped: bool
) -> None:
    data = _zip({"a.json": JSON}) if zipped else _mail()
    at %= len(data)
    try:
        open_report(data[:at] + junk + data[at + len(junk) :])
    except (EnvelopeError, ReportError) as error:
        assert str(error).isprintable()


def test_packing_is_repeatable() -> None:
    assert pack(JSON) == pack(JSON)
    assert msgspec.json.decode(unpack(pack(JSON))) == REPORT_PLAIN


REPORT_PLAIN = msgspec.json.decode(msgspec.json.encode(REPORT.plain()))
