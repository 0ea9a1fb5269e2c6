"""Reports of the first draft: the schema, XML of strangers, conversion, mail within a size."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
import time
import zipfile
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from smtp_sts.cli import main
from smtp_sts.tlsrpt import (
    DRAFT_RESULTS,
    RESULTS,
    AppliedPolicy,
    DraftFailure,
    DraftReport,
    EnvelopeError,
    Failure,
    PolicyResult,
    ReportError,
    compose_draft,
    is_draft_policy,
    open_report,
    pack,
    read_json,
    read_xml,
    split_draft,
    to_draft,
    to_rfc8460,
)
from smtp_sts.tlsrpt.bounds import MAX_FAILURES
from smtp_sts.tlsrpt.draft00_mail import SIGNATURE
from smtp_sts.tlsrpt.draft00_results import FROM_RFC8460, NAMES, WIDENED
from smtp_sts.tlsrpt.draft00_xml import NAMESPACE
from smtp_sts.tlsrpt.names import ip_address

from .samples import REPORT, REPORTS, STS

TO = "reports@company-y.example"
NOW = datetime(2016, 4, 2, 1, 2, 3, tzinfo=UTC)
START = datetime(2016, 4, 1, tzinfo=UTC)
#: Appendix 4 of the draft, as it stands there.
EXAMPLE = b"""\
        <feedback xmlns="http://www.example.org/smtp-sts-xml/0.1">
          <version>1</version>
          <report_metadata>
            <org_name>Company XYZ</org_name>
            <email>sts-reporting@company.com</email>
            <extra_contact_info></extra_contact_info>
            <report_id>12345</report_id>
            <date_range><begin>1439227624</begin>
            <end>1439313998</end></date_range>
            </report_metadata>
          <applied_policy>
            <domain>company.com</domain>
            <mx>*.mx.mail.company.com</mx>
            <constraint>WebPKI</constraint>
          </applied_policy>
           <enforcement_level>ReportOnly</enforcement_level>
          <record>
              <failure>ExpiredCertificate</failure>
              <count>13128</count>
              <hostname>mta7.am0.yahoodns.net.</hostname>
              <connectedIp> 98.136.216.25</connectedIp>
          </record>
          <record>
              <failure>StarttlsNotSupported</failure>
              <count>19</count>
              <hostname>mta7.am0.yahoodns.net.</hostname>
              <connectedIp>98.22.33.99</connectedIp>
          </record>
        </feedback>
"""
DRAFT = DraftReport(
    organization_name="Company-X",
    contact="sts-reporting@company-x.example",
    report_id="5065427c@company-x.example",
    start=START,
    end=START + timedelta(days=1, seconds=-1),
    domain="company-y.example",
    mx=("*.mail.company-y.example", "mx.company-y.example"),
    constraint="webpki",
    enforced=True,
    failures=(
        DraftFailure(
            "expired-certificate", 100, "mx1.mail.company-y.example", "192.0.2.1", "2001:db8::1"
        ),
        DraftFailure("mx-mismatch", 3, "mx.mallory.example"),
    ),
    extra_contact="https://company-x.example/sts",
)
XML = DRAFT.render()


# -- the schema and the example ----------------------------------------------------------------


def test_the_example_of_appendix_4_is_read_without_a_word() -> None:
    read = read_xml(EXAMPLE)
    assert read.oddities == ()
    assert read.report == DraftReport(
        organization_name="Company XYZ",
        contact="sts-reporting@company.com",
        report_id="12345",
        start=datetime(2015, 8, 10, 17, 27, 4, tzinfo=UTC),
        end=datetime(2015, 8, 11, 17, 26, 38, tzinfo=UTC),
        domain="company.com",
        mx=("*.mx.mail.company.com",),
        constraint="webpki",
        enforced=False,
        failures=(
            DraftFailure("expired-certificate", 13128, "mta7.am0.yahoodns.net", "98.136.216.25"),
            DraftFailure("starttls-not-supported", 19, "mta7.am0.yahoodns.net", "98.22.33.99"),
        ),
    )


def test_the_schema_takes_the_example_and_what_is_written_and_nothing_else() -> None:
    schema = etree.XMLSchema(
        etree.fromstring((files("smtp_sts.tlsrpt") / "draft00.xsd").read_bytes())
    )
    assert schema.validate(etree.fromstring(EXAMPLE))
    assert schema.validate(etree.fromstring(XML))
    for wrong in (
        XML.replace(b"ExpiredCertificate", b"CertificateExpired"),
        XML.replace(b"WebPKI", b"webpki"),
        XML.replace(b"Reject", b"Enforce"),
        XML.replace(b"<count>3<", b"<count>three<"),
        XML.replace(b"  <version>1</version>\n", b""),
        XML.replace(b"<domain>", b"<more/><domain>"),
        XML.replace(NAMESPACE.encode(), b"urn:other"),
    ):
        assert wrong != XML
        assert not schema.validate(etree.fromstring(wrong))


def test_every_failure_type_of_the_draft_has_a_name_that_the_schema_takes() -> None:
    for slug, result in DRAFT_RESULTS.items():
        report = msgspec.structs.replace(DRAFT, failures=(DraftFailure(slug, 1),))
        read = read_xml(report.render())
        assert read.oddities == ()
        assert read.report.failures[0].failure == NAMES[result.xml.lower()]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("MxMismatch", "mx-mismatch"),
        ("mx-mismatch", "mx-mismatch"),
        ("CertificateMismatch", "certificate-mismatch"),
        ("certificate-mismatch", "certificate-mismatch"),
        ("InvalidCertificate", "invalid-certificate"),
        ("expiredcertificate", "expired-certificate"),
    ],
)
def test_slugs_and_xml_names_are_both_understood(name: str, slug: str) -> None:
    read = read_xml(XML.replace(b"MxMismatch", name.encode()))
    assert read.report.failures[1].failure == slug


# -- what others write -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "oddity"),
    [
        # by the letter of appendix 3 only the root has the namespace
        (XML.replace(b"<feedback xmlns=", b"<t:feedback xmlns:t=")
         .replace(b"/feedback", b"/t:feedback"), ""),
        (XML.replace(b' xmlns="http://www.example.org/smtp-sts-xml/0.1"', b""), ""),
        (XML.decode().encode("utf-16"), ""),
        (XML.decode().encode("utf-16-be"), ""),
        (b"\xef\xbb\xbf" + XML, ""),
        (b"\n\n" + XML, ""),
        (XML.replace(b"utf-8", b"iso-8859-1"), ""),
        (b"<!-- a comment -->" + XML.partition(b"?>\n")[2], ""),
        (XML.replace(b"'utf-8'", b"'utf-16'"), "encoding 'utf-16'"),
        (XML.replace(b"'utf-8'", b"'x-none'"), "encoding 'x-none'"),
        (XML.replace(NAMESPACE.encode(), b"urn:mine"), "namespace 'urn:mine'"),
        (XML.replace(b"<record>", b"<record id='1'>"), "attributes"),
        (XML.replace(b"WebPKI", b"webpki"), "constraint"),
        (XML.replace(b"<version>1</version>", b""), "version"),
        (XML.replace(b"<domain>", b"<more/><domain>"), "more"),
        (XML.replace(b"<domain>", b"<mx>a.example</mx><domain>").replace(
            b"<mx>*.mail.company-y.example,mx", b"<mx>mx"), "mx"),
    ],
)  # fmt: skip
def test_what_can_be_understood_is_read_and_oddities_are_named(body: bytes, oddity: str) -> None:
    read = read_xml(body)
    assert read.report.domain == DRAFT.domain
    assert read.report.failed == 103
    if oddity:
        assert any(oddity in text for text in read.oddities)
    else:
        assert (read.report, read.oddities) == (DRAFT, ())


def test_bytes_that_are_no_text_are_replaced() -> None:
    read = read_xml(XML.replace(b"Company-X", b"Company-\xff"))
    assert read.report.organization_name == "Company-\ufffd"
    assert any(text.startswith("not utf-8 at byte") for text in read.oddities)
    latin = XML.replace(b"'utf-8'", b"'iso-8859-1'").replace(b"Company-X", b"Company-\xe4")
    assert read_xml(latin).report.organization_name == "Company-ä"


def test_bad_values_are_odd_and_not_believed() -> None:
    body = XML.replace(b">100<", b">-100<").replace(b"192.0.2.1", b"192.0.2.999")
    read = read_xml(body.replace(b"MxMismatch", b"Sunspots"))
    assert read.report.failures[0].count == 0
    assert read.report.failures[1].failure == "Sunspots"
    assert {text.partition(":")[0] for text in read.oddities} >= {
        "record[0].count", "record[0].connectedIp",
    }  # fmt: skip


DOCTYPE = b'<?xml version="1.0"?>\n<!DOCTYPE feedback [%s]>\n'
BILLION = DOCTYPE % (
    b'<!ENTITY a "lol">'
    + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(2, 12))
)


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        (b"", "report-not-xml"),
        (b"<feedback", "report-not-xml"),
        (b"<feedback></feedbac>", "report-not-xml"),
        (XML + XML, "report-not-xml"),
        (XML.replace(b"Company-X", b"\x00"), "report-not-xml"),
        (XML.replace(b"Company-X", b"\x1b[2J"), "report-not-xml"),
        (XML.replace(b"Company-X", b"&company;"), "report-not-xml"),
        (XML.replace(b"Company-X", b"&#0;"), "report-not-xml"),
        (b"<html/>", "report-not-feedback"),
        (b"<feedback/>", "report-not-tls"),
        (b"<feedback><report_metadata/><policy_published/></feedback>", "report-dmarc"),
        (XML.replace(b"<begin>", b"<begin>x"), "report-date"),
        (XML.replace(b"<begin>", b"<begin>999999"), "report-date"),
        # an XML bomb, and entities that would read a file or the network
        (BILLION + XML.replace(b"Company-X", b"&a11;").partition(b"?>\n")[2], "report-doctype"),
        (DOCTYPE % b'<!ENTITY x SYSTEM "file:///etc/passwd">' + b"<feedback>&x;</feedback>",
         "report-doctype"),
        (DOCTYPE % b'<!ENTITY % x SYSTEM "http://192.0.2.1/"> %x;' + b"<feedback/>",
         "report-doctype"),
        (b'<!DOCTYPE feedback SYSTEM "http://192.0.2.1/x.dtd"><feedback/>', "report-doctype"),
        ((DOCTYPE % b'<!ENTITY a "b">').decode().encode("utf-16") + b"<", "report-doctype"),
        (b"<feedback>" + b"<a>" * 100 + b"</a>" * 100 + b"</feedback>", "report-too-deep"),
        (b"<feedback>" + b"<a>" * 40_000, "report-not-xml"),
        (b"<feedback>" + b"<a/>" * 300_000 + b"</feedback>", "report-too-large"),
        (b"<feedback " + b"".join(b"a%d='' " % n for n in range(300_000)) + b"/>",
         "report-too-large"),
        (b"<feedback " + b"".join(b"xmlns:a%d='u' " % n for n in range(100)) + b"/>",
         "report-too-large"),
        (b"<feedback>" + b"x" * 11_000_000 + b"</feedback>", "report-not-xml"),
        (b"<" + b"x" * 33 * 1024 * 1024, "report-too-large"),
    ],
)  # fmt: skip
def test_law_7_hostile_xml_gives_a_clear_error(body: bytes, slug: str) -> None:
    with pytest.raises(ReportError) as caught:
        read_xml(body)
    assert caught.value.slug == slug
    assert str(caught.value).isprintable()


def test_law_7_many_faults_cost_no_more_than_many_records() -> None:
    # libxml2 looks for the place of each fault: all at once, these took minutes
    start = XML.index(b"  <record>")
    began = time.monotonic()
    read = read_xml(XML[:start] + b"<record/>" * 60_000 + b"</feedback>")
    assert time.monotonic() - began < 20
    assert len(read.report.failures) == MAX_FAILURES
    assert read.left_out.failures == 60_000 - MAX_FAILURES
    assert len(read.oddities) == 20


def test_law_5_the_schemas_words_hold_no_control_characters() -> None:
    body = XML.replace(b"WebPKI", "&#x202e;&#x85;\x7fä".encode() + b"x" * 5000)
    assert all(text.isprintable() and len(text) < 400 for text in read_xml(body).oddities)


def test_a_long_text_is_cut() -> None:
    read = read_xml(XML.replace(b"Company-X", b"x" * 5000))
    assert read.report.organization_name == "x" * 2048


# -- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"organization_name": ""}, "org_name"),
        ({"organization_name": "a\nb"}, "org_name"),
        ({"organization_name": "a\uffff"}, "org_name"),
        ({"contact": "nobody"}, "email"),
        ({"contact": "a@b.example\r\nBcc: c@d.example"}, "email"),
        ({"report_id": "12345"}, "report_id"),
        ({"end": START - timedelta(1)}, "date_range"),
        ({"start": START.replace(tzinfo=None)}, "date_range"),
        ({"domain": "exa mple"}, "applied_policy.domain"),
        ({"mx": ("*",)}, "applied_policy.mx"),
        ({"mx": ("a.example,b.example",)}, "applied_policy.mx"),
        ({"failures": ()}, "record"),
        ({"failures": (DraftFailure("sunspots", 1),)}, "record[0].failure"),
        ({"failures": (DraftFailure("mx-mismatch", 0),)}, "record[0].count"),
        ({"failures": (DraftFailure("mx-mismatch", 1, "<b/>"),)}, "record[0].hostname"),
        ({"failures": (DraftFailure("mx-mismatch", 1, "", "x"),)}, "record[0].connectedIp"),
    ],
)
def test_an_unfit_report_is_not_written(change: dict[str, object], place: str) -> None:
    with pytest.raises(ReportError) as caught:
        msgspec.structs.replace(DRAFT, **change).render()
    assert caught.value.place == place


_names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\.(example|test)", fullmatch=True)
#: as RFC 5952 has them, which Python itself does from 3.13 on
_ips = st.one_of(st.just(""), st.ip_addresses().map(lambda ip: ip_address(str(ip))))
_drafts = st.builds(
    DraftReport,
    organization_name=st.text(
        st.characters(min_codepoint=33, max_codepoint=126, include_characters="äß漢<&>]\"'"),
        min_size=1, max_size=40,
    ),
    contact=_names.map("a@".__add__),
    report_id=_names.map("a.b@".__add__),
    start=st.integers(0, 2**32).map(lambda n: datetime.fromtimestamp(n, UTC)),
    end=st.just(datetime(2200, 1, 1, tzinfo=UTC)),
    domain=_names,
    mx=st.lists(st.one_of(_names, _names.map("*.".__add__)), max_size=3).map(tuple),
    constraint=st.sampled_from(("webpki", "tlsa")),
    enforced=st.booleans(),
    failures=st.lists(
        st.builds(
            DraftFailure,
            st.sampled_from(sorted(set(DRAFT_RESULTS) - {"certificate-mismatch"})),
            st.integers(1, 2**40),
            st.one_of(st.just(""), _names),
            _ips,
            _ips,
        ),
        min_size=1, max_size=4,
    ).map(tuple),
)  # fmt: skip


@given(_drafts)
def test_reading_after_writing_is_the_identity(report: DraftReport) -> None:
    read = read_xml(report.render())
    assert (read.report, read.oddities) == (report, ())


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(XML.__add__)))
def test_nothing_but_report_errors_comes_out(body: bytes) -> None:
    try:
        read = read_xml(body)
    except ReportError as error:
        assert str(error).isprintable()
    else:
        assert read.report.failures == () or read.report.domain


@settings(max_examples=200)
@given(st.integers(0, len(XML) - 1), st.integers(0, 40), st.binary(max_size=8))
def test_law_7_a_damaged_report_is_read_or_refused(at: int, length: int, other: bytes) -> None:
    body = XML[:at] + other + XML[at + length :]
    try:
        read = read_xml(body)
    except ReportError as error:
        assert str(error).isprintable()
    else:
        to_rfc8460(read.report)
        assert all(text.isprintable() for text in read.oddities)


# -- into RFC 8460 and back --------------------------------------------------------------------


def test_every_result_type_is_in_the_table_and_every_slug_leads_somewhere() -> None:
    assert set(FROM_RFC8460) == set(RESULTS)
    assert {slug for slug in FROM_RFC8460.values() if slug} <= set(DRAFT_RESULTS)
    for result in DRAFT_RESULTS.values():
        assert {result.rfc8460, result.rfc8460_tlsa} <= set(RESULTS) | {""}
    for name, slug in FROM_RFC8460.items():
        if slug and name not in WIDENED:
            assert DRAFT_RESULTS[slug].rfc8460 == name


def test_a_draft_report_as_rfc_8460_has_it() -> None:
    converted = to_rfc8460(DRAFT)
    report = converted.report
    assert read_json(report.render()).oddities == ()
    (result,) = report.policies
    assert result.policy == AppliedPolicy(
        "sts",
        "company-y.example",
        ("v=STS1; to=true; mx=*.mail.company-y.example,mx.company-y.example; c=webpki",),
        DRAFT.mx,
    )
    assert is_draft_policy(result.policy)
    assert not is_draft_policy(STS)
    assert (result.successful, result.failed) == (0, 103)
    assert result.failures == (
        Failure(
            "certificate-expired", 100, "2001:db8::1", "mx1.mail.company-y.example", "",
            "192.0.2.1",
        ),
        Failure(
            "validation-failure", 3, "", "mx.mallory.example", failure_reason_code="mx-mismatch"
        ),
    )  # fmt: skip
    assert [loss.split()[0] for loss in converted.losses] == [
        "sessions",
        "the",
        "extra_contact_info",
    ]


def test_the_example_becomes_a_valid_report() -> None:
    converted = to_rfc8460(read_xml(EXAMPLE).report)
    assert converted.report.report_id == "12345@company.com"
    assert read_json(converted.report.render()).report == converted.report
    assert any("'12345' became" in loss for loss in converted.losses)


def test_an_invalid_certificate_under_tlsa_is_one_that_tlsa_refuses() -> None:
    failure = (DraftFailure("invalid-certificate", 1),)
    for constraint, name in (("webpki", "certificate-not-trusted"), ("tlsa", "tlsa-invalid")):
        draft = msgspec.structs.replace(DRAFT, constraint=constraint, failures=failure)
        assert to_rfc8460(draft).report.policies[0].failures[0].result_type == name


@given(_drafts)
def test_there_and_back_only_what_is_named_is_lost(draft: DraftReport) -> None:
    converted = to_rfc8460(draft).report
    assert read_json(converted.render()).report == converted
    back = to_draft(converted)
    (again,) = back.reports
    assert again.failed == draft.failed
    assert back.losses == ()
    tlsa = draft.constraint == "tlsa"
    merged: dict[DraftFailure, int] = {}
    for failure in draft.failures:
        # what RFC 8460 has one type for, the constraint being tlsa
        slug = failure.failure
        slug = "tlsa-invalid" if tlsa and slug == "invalid-certificate" else slug
        key = msgspec.structs.replace(failure, failure=slug, count=0)
        merged[key] = merged.get(key, 0) + failure.count
    kept = tuple(msgspec.structs.replace(key, count=count) for key, count in merged.items())
    assert again == msgspec.structs.replace(draft, failures=kept, extra_contact="")


@settings(deadline=None)
@given(REPORTS)
def test_any_report_becomes_drafts_whose_failures_are_counted_or_named_as_lost(
    report: object,
) -> None:
    assert isinstance(report, type(REPORT))
    made = to_draft(report)
    for draft in made.reports:
        again = read_xml(draft.render())
        assert again.oddities == ()
        assert again.report.failed == draft.failed
    assert len({draft.report_id for draft in made.reports}) == len(made.reports)
    told = sum(
        failure.failed_session_count
        for result in report.policies
        if result.policy.policy_type != "no-policy-found"
        for failure in result.failures
        if FROM_RFC8460[failure.result_type]
    )
    assert sum(draft.failed for draft in made.reports) == told
    assert all(loss.isprintable() for loss in made.losses)


def test_what_the_draft_has_no_place_for_is_named() -> None:
    failures = (
        Failure("sts-policy-fetch-error", 2),
        Failure("certificate-host-mismatch", 3, receiving_mx_helo="mx", failure_reason_code="x"),
        Failure("certificate-expired", 4, additional_information="https://x.example"),
    )
    report = msgspec.structs.replace(
        REPORT,
        policies=(
            PolicyResult(STS, 5, 12, failures),
            PolicyResult(AppliedPolicy("no-policy-found", "z.example"), 0, 7),
            PolicyResult(AppliedPolicy("tlsa", "company-y.example", ("3 1 1 ab",)), 0, 1,
                         (Failure("tlsa-invalid", 1),)),
        ),
    )  # fmt: skip
    made = to_draft(report)
    assert made.losses == (
        "company-y.example: 5 sessions that succeeded are not counted",
        "company-y.example: 2 times 'sts-policy-fetch-error' left out: no such type",
        "company-y.example: certificate-host-mismatch is written as InvalidCertificate, "
        "the closest type",
        "company-y.example: EHLO names left out",
        "company-y.example: reason codes left out",
        "company-y.example: additional information left out",
        "company-y.example: 3 failed sessions without details are left out",
        "company-y.example: the policy's text has no place but for mode and mx",
        "z.example: 7 failed sessions under no policy are left out",
    )
    first, second = made.reports
    assert (first.constraint, first.enforced, first.failed) == ("webpki", False, 7)
    assert (second.constraint, second.enforced, second.failed) == ("tlsa", True, 1)
    assert first.report_id == "5065427c-23d3-47ca.1@company-x.example"


# -- mail --------------------------------------------------------------------------------------


def test_the_mail_brings_the_report_and_is_sent_whatever_tls_there_is() -> None:
    mail = compose_draft(DRAFT, TO, "00a1", NOW)
    message = email.message_from_bytes(mail, policy=email.policy.default)
    assert message["From"] == DRAFT.contact
    assert message["To"] == TO
    assert message["Subject"] == (
        "Report Domain: company-y.example Submitter: company-x.example "
        "Report-ID: <5065427c@company-x.example>"
    )
    assert message["TLS-Required"] == "No"  # section 4: MUST NOT honor SMTP STS failures
    assert message["TLS-Report-Domain"] is None
    assert message.get_content_type() == "multipart/mixed"
    _, machine = list(message.iter_parts())
    assert machine.get_content_type() == "application/gzip"
    assert (
        machine.get_filename()
        == "company-x.example!company-y.example!1459468800!1459555199!00a1.xml.gz"
    )
    assert gzip.decompress(machine.get_content()) == XML
    assert not message.defects
    enclosed = open_report(mail)
    assert enclosed.draft == DRAFT
    assert enclosed.read.report == to_rfc8460(DRAFT).report


def _large(count: int) -> DraftReport:
    failures = tuple(
        DraftFailure(
            "expired-certificate", n + 1, f"mx{n * 7919 % 10007}.example", f"192.0.2.{n % 250}"
        )
        for n in range(count)
    )
    return msgspec.structs.replace(DRAFT, failures=failures)


@pytest.mark.parametrize("limit", [6000, 8000, 30_000])
def test_no_mail_is_larger_than_the_policy_takes_and_nothing_is_lost(limit: int) -> None:
    report = _large(800)
    parts = split_draft(report, limit)
    mails = [compose_draft(part, TO, "a" * 64, NOW) for part in parts]
    assert max(map(len, mails)) <= limit - SIGNATURE
    assert (len(mails) > 1) is (limit < 30_000)
    drafts = [enclosed.draft for enclosed in map(open_report, mails)]
    assert sum((draft.failures for draft in drafts if draft), ()) == report.failures
    assert len({draft.report_id for draft in drafts if draft}) == len(mails)
    assert len({open_report(mail).message_id for mail in mails}) == len(mails)


@settings(max_examples=30, deadline=None)
@given(_drafts, st.integers(0, 20_000), st.sampled_from([TO, f"{'y' * 64}@{'y' * 60}.example"]))
def test_every_part_fits_whoever_gets_it(report: DraftReport, limit: int, to: str) -> None:
    try:
        parts = split_draft(report, limit)
    except EnvelopeError as error:
        assert error.slug == "report-too-large"
        return
    for part in parts:
        assert len(compose_draft(part, to, "1" * 64, NOW)) + SIGNATURE <= limit + 64
    assert sum((part.failures for part in parts), ()) == report.failures


def test_without_a_limit_a_report_is_one() -> None:
    assert split_draft(_large(800), None) == [_large(800)]


@pytest.mark.parametrize("limit", [0, 500])
def test_a_limit_that_no_report_can_keep_is_said_to_be(limit: int) -> None:
    with pytest.raises(EnvelopeError) as caught:
        split_draft(DRAFT, limit)
    assert caught.value.slug == "report-too-large"


def test_a_limit_that_would_make_too_many_mails_is_said_to_be() -> None:
    with pytest.raises(EnvelopeError, match="more than 100 mails"):
        split_draft(_large(6000), 4600)


@pytest.mark.parametrize(
    ("recipient", "unique"),
    [("nobody", "1"), ("a@b.example\r\nBcc: c@d.example", "1"), ("-x@b.example", "1"), (TO, ""),
     (TO, "a\r\nb"), (TO, "x" * 65)],
)  # fmt: skip
def test_law_5_nothing_gets_into_the_header_by_the_address(recipient: str, unique: str) -> None:
    with pytest.raises(EnvelopeError):
        compose_draft(DRAFT, recipient, unique, NOW)


@pytest.mark.parametrize("name", ["xml", "gzip", "zip", "utf-16"])
def test_a_report_is_found_in_any_wrapping(name: str) -> None:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("r.xml", XML)
    data = {
        "xml": XML, "gzip": pack(XML), "zip": packed.getvalue(),
        "utf-16": XML.decode().encode("utf-16"),
    }[name]  # fmt: skip
    assert open_report(data).draft == DRAFT


# -- commands ----------------------------------------------------------------------------------


def _run(command: str, path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["report", command, str(path), *options])


def test_the_report_is_shown_for_people_and_for_programs(tmp_path: Path) -> None:
    path = tmp_path / "r.xml"
    path.write_bytes(XML)
    result = _run("show", path)
    assert result.exit_code == 1
    for text in (
        "Company-X, sts-reporting@company-x.example",
        "XML of the first draft",
        "103; this form tells of no others",
        "company-y.example: sts  103 failed",
        "v=STS1; to=true",
        "mx-mismatch\n  The MX host is none that the policy names.",
    ):
        assert text in result.output
    data = json.loads(_run("show", path, "--json").output)
    assert data["draft"]["applied_policy"]["constraint"] == "WebPKI"
    assert data["draft"]["records"][1]["failure"] == "mx-mismatch"


def test_a_report_is_converted_and_losses_are_told(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(EXAMPLE)
    result = _run("convert", path)
    assert result.exit_code == 0
    report = read_json(result.stdout.encode()).report
    assert report.failed == 13147
    assert "lost: report_id '12345' became '12345@company.com'" in result.stderr
    path.write_bytes(result.stdout.encode())
    back = _run("convert", path, "--to", "xml")
    assert back.exit_code == 0
    assert read_xml(back.stdout.encode()).report.failed == 13147
    assert back.stderr == ""


def test_a_form_that_it_has_already_is_made_regular(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(XML.decode().encode("utf-16"))
    assert _run("convert", path, "--to", "xml").stdout_bytes == XML
    path.write_bytes(pack(REPORT.render()))
    assert read_json(_run("convert", path, "--to", "json").stdout_bytes).report == REPORT


def test_of_several_policies_one_is_to_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "r"
    other = msgspec.structs.replace(STS, policy_domain="z.example")
    failures = (Failure("certificate-expired", 1),)
    report = msgspec.structs.replace(
        REPORT,
        policies=(PolicyResult(STS, 0, 1, failures), PolicyResult(other, 0, 1, failures)),
    )
    path.write_bytes(report.render())
    result = _run("convert", path)
    assert result.exit_code == 1
    assert "1 company-y.example (webpki), 2 z.example (webpki)" in result.stderr
    assert b"<domain>z.example" in _run("convert", path, "--policy", "2").stdout_bytes
    assert _run("convert", path, "--policy", "3").exit_code == 1


@pytest.mark.parametrize(
    ("data", "form", "status", "text"),
    [
        (b"", "json", 2, "not-a-report"),
        (BILLION + b"<feedback/>", "json", 2, "report-doctype"),
        (XML.replace(b"sts-reporting@company-x.example", b"x"), "json", 1, "contact-info"),
        (EXAMPLE, "xml", 1, "report_id"),
        (msgspec.structs.replace(REPORT, policies=(PolicyResult(STS, 1, 0),)).render(), "xml", 1,
         "reports nothing else"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_says_why(
    tmp_path: Path, data: bytes, form: str, status: int, text: str
) -> None:
    (tmp_path / "r").write_bytes(data)
    result = _run("convert", tmp_path / "r", "--to", form)
    assert (result.exit_code, result.stdout) == (status, "")
    assert text in result.stderr
