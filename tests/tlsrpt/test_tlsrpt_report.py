"""The report: strict writing, lenient reading, splitting (RFC 8460 section 4)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp_sts.tlsrpt import (
    RESULTS,
    PolicyResult,
    Report,
    ReportError,
    read_json,
    split,
)
from smtp_sts.tlsrpt.bounds import MAX_ODDITIES, MAX_UNPACKED
from smtp_sts.tlsrpt.report import MAX_COUNT
from smtp_sts.tlsrpt.results import CODES, POLICY_CODES, POLICY_TYPES

from .samples import EXPIRED, REPORT, REPORTS, STS


def _example() -> dict[str, Any]:
    """Appendix B of the RFC, as it stands there."""
    return {
        "organization-name": "Company-X",
        "date-range": {
            "start-datetime": "2016-04-01T00:00:00Z",
            "end-datetime": "2016-04-01T23:59:59Z",
        },
        "contact-info": "sts-reporting@company-x.example",
        "report-id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": list(STS.policy_string),
                    "policy-domain": "company-y.example",
                    "mx-host": "*.mail.company-y.example",
                },
                "summary": {
                    "total-successful-session-count": 5326,
                    "total-failure-session-count": 303,
                },
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "2001:db8:abcd:0012::1",
                        "receiving-mx-hostname": "mx1.mail.company-y.example",
                        "failed-session-count": 100,
                    },
                    {
                        "result-type": "starttls-not-supported",
                        "sending-mta-ip": "2001:db8:abcd:0013::1",
                        "receiving-mx-hostname": "mx2.mail.company-y.example",
                        "receiving-ip": "203.0.113.56",
                        "failed-session-count": 200,
                        "additional-information": "https://reports.company-x.example/report_info",
                    },
                    {
                        "result-type": "validation-failure",
                        "sending-mta-ip": "198.51.100.62",
                        "receiving-ip": "203.0.113.58",
                        "receiving-mx-hostname": "mx-backup.mail.company-y.example",
                        "failed-session-count": 3,
                        "failure-error-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                    },
                ],
            }
        ],
    }


def _body(change: dict[str, Any]) -> bytes:
    """The example with some members replaced, at dotted places; None takes a member away."""
    data = _example()
    for place, value in change.items():
        *path, last = place.split(".")
        target: Any = data
        for step in path:
            target = target[int(step) if step.isdigit() else step]
        if value is ABSENT:
            del target[last]
        else:
            target[int(last) if last.isdigit() else last] = value
    return json.dumps(data).encode()


ABSENT = object()


def test_the_example_of_the_rfc_is_read() -> None:
    read = read_json(_body({}))
    report = read.report
    assert (report.start, report.end) == (
        datetime(2016, 4, 1, tzinfo=UTC),
        datetime(2016, 4, 1, 23, 59, 59, tzinfo=UTC),
    )
    assert report.policies[0].policy == STS
    assert (report.successful, report.failed) == (5326, 303)
    assert [f.failed_session_count for f in report.policies[0].failures] == [100, 200, 3]
    assert report.policies[0].failures[2].failure_reason_code.startswith("X509_V_ERR")
    assert set(read.oddities) == {
        "policies[0].failure-details[2].failure-error-code: its name is failure-reason-code",
        "policies[0].policy.mx-host: a string where an array belongs",
    }


def test_erratum_6241_mx_host_is_written_as_an_array() -> None:
    policy = json.loads(REPORT.render())["policies"][0]["policy"]
    assert policy["mx-host"] == ["*.mail.company-y.example"]


def test_what_is_written_has_the_members_of_the_rfc_and_no_others() -> None:
    data = json.loads(REPORT.render())
    assert data == {
        "organization-name": "Company-X",
        "date-range": {
            "start-datetime": "2026-04-01T00:00:00Z",
            "end-datetime": "2026-04-01T23:59:59Z",
        },
        "contact-info": "sts-reporting@company-x.example",
        "report-id": "5065427c-23d3-47ca@company-x.example",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": list(STS.policy_string),
                    "policy-domain": "company-y.example",
                    "mx-host": ["*.mail.company-y.example"],
                },
                "summary": {
                    "total-successful-session-count": 5326,
                    "total-failure-session-count": 303,
                },
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "2001:db8:abcd:12::1",
                        "receiving-mx-hostname": "mx1.mail.company-y.example",
                        "failed-session-count": 303,
                    }
                ],
            }
        ],
    }


P = "policies.0"


@pytest.mark.parametrize(
    ("change", "oddity"),
    [
        # refused whole by another reader, though nothing is lost by reading on
        ({f"{P}.failure-details": None}, "failure-details: no array"),
        ({"contact-info": None}, "contact-info: absent"),
        ({"contact-info": ABSENT}, "contact-info: absent"),
        ({f"{P}.policy.policy-domain": ABSENT}, "policy-domain: absent"),
        ({f"{P}.policy.policy-type": "dane-and-sts"}, "'dane-and-sts' is no known type"),
        # seen in reports of large senders
        ({f"{P}.policy.mx-host": ["mx: a.example"]}, 'begin with "mx:"'),
        ({f"{P}.policy.policy-string": '["version: STSv1"]'}, "policy-string: a string"),
        ({"date-range.start-datetime": "2016-04-01T00:00:00"}, "start-datetime: no zone"),
        ({"date-range.end-datetime": "2016-04-08T00:00:00Z"}, "longer than a day"),
        ({f"{P}.summary.total-failure-session-count": ABSENT}, "count: absent"),
        ({f"{P}.summary.total-failure-session-count": "303"}, "a string where a number"),
        ({f"{P}.summary": ABSENT}, "summary: absent"),
        ({f"{P}.failure-details.0.result-type": "certificate-odd"}, "'certificate-odd' is no"),
        ({f"{P}.failure-details.0": "x"}, "no object: left out"),
        ({"report-id": 7}, "report-id: a number"),
        ({"organization-name": ABSENT}, "organization-name: absent"),
        ({f"{P}.failure-details.0.failed-session-count": -1}, "no count"),
        ({f"{P}.failure-details.0.failed-session-count": 10**30}, "no count"),
        ({f"{P}.failure-details.0.failed-session-count": True}, "no count"),
        ({f"{P}.failure-details.0.failed-session-count": 2.5}, "no whole number"),
        ({f"{P}.failure-details.0.failed-session-count": 99}, "a sum of 302 failed sessions"),
        ({f"{P}.summary.total-failure-session-count": 0}, "where the total is 0"),  # mox, testing
        ({"date-range.start-datetime": "2016-04-01 00:00:00 UTC"}, "writes a zone"),
        ({f"{P}.policy.policy-string": [json.dumps(["a", "b"])]}, "an array or several lines"),
        ({f"{P}.policy.mx-host": ["a.example, b.example"]}, "several hosts in one string"),
    ],
)
def test_what_others_write_is_read_and_its_oddity_named(
    change: dict[str, Any], oddity: str
) -> None:
    assert any(oddity in text for text in read_json(_body(change)).oddities)


@pytest.mark.parametrize(
    "change",
    [
        {f"{P}.failure-details": ABSENT},  # Google, where nothing failed
        {f"{P}.policy.policy-string": ABSENT},  # Mail.ru
        {f"{P}.policy.mx-host": ABSENT},  # Microsoft
        {f"{P}.failure-details.0.receiving-ip": ""},  # mox
        {"report-id": "2026-04-01T00:00:00Z_company-y.example+"},  # Microsoft
        {"date-range.end-datetime": "2016-04-02T00:00:00Z"},  # Mail.ru
        {"date-range.end-datetime": "2016-04-01T24:00:00Z"},
        {"date-range.end-datetime": "2016-04-01T23:59:60Z"},
        {"date-range.end-datetime": "2016-04-02T01:59:59.123456789+02:00"},
        {"unknown": [{"x": 1}]},
    ],
)
def test_variants_that_are_no_fault_bring_no_oddity(change: dict[str, Any]) -> None:
    rest = {f"{P}.policy.mx-host": ["a.example"], f"{P}.failure-details.2": EXPIRED_MEMBERS}
    assert read_json(_body({**rest, **change})).oddities == ()


EXPIRED_MEMBERS = {"result-type": "certificate-expired", "failed-session-count": 3}


def test_microsofts_policy_string_within_a_string_is_unpacked() -> None:
    lines = list(STS.policy_string)
    read = read_json(_body({f"{P}.policy.policy-string": json.dumps(lines)}))
    assert read.report.policies[0].policy.policy_string == STS.policy_string


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        (['["3 1 1 AA","3 1 1 BB"]'], ("3 1 1 AA", "3 1 1 BB")),
        (['["3 1 1 AA"]', '["3 1 1 BB"]'], ("3 1 1 AA", "3 1 1 BB")),
        ([["3 1 1 AA"], "3 1 1 BB"], ("3 1 1 AA", "3 1 1 BB")),
        (["version: STSv1\r\nmode: none\r\n"], ("version: STSv1", "mode: none")),
        (["[not JSON"], ("[not JSON",)),
    ],
)
@pytest.mark.parametrize("member", ["policy-string", "mx-host"])
def test_arrays_and_lines_within_strings_are_taken_apart(
    member: str, entries: list[Any], found: tuple[str, ...]
) -> None:
    policy = read_json(_body({f"{P}.policy.{member}": entries})).report.policies[0].policy
    if member == "policy-string":
        assert policy.policy_string == found
    else:  # no host has a blank
        assert policy.mx_host == tuple(word for entry in found for word in entry.split())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2016-04-01t00:00:00z", "2016-04-01T00:00:00+00:00"),
        ("2016-04-01 00:00:00+0000", "2016-04-01T00:00:00+00:00"),
        ("2016-04-01T02:00:00 +02:00", "2016-04-01T00:00:00+00:00"),
        ("2016-04-01T00:00:00 z", "2016-04-01T00:00:00+00:00"),
        ("2016-04-01 00:00:00 GMT", "2016-04-01T00:00:00+00:00"),
    ],
)
def test_date_times_are_read_as_they_are_meant(written: str, meant: str) -> None:
    report = read_json(_body({"date-range.start-datetime": written})).report
    assert report.start.isoformat() == meant


FAILED = '"total-failure-session-count": 303'


@pytest.mark.parametrize(
    ("old", "new", "failed", "oddity"),
    [
        (FAILED, FAILED.replace("303", "1e999"), MAX_COUNT, "no count that can be"),
        (FAILED, FAILED.replace("303", "9" * 400), MAX_COUNT, "no count that can be"),
        (FAILED, FAILED.replace("303", "9" * 5000), MAX_COUNT, "no count that can be"),
        (FAILED, FAILED.replace("303", f'"{"9" * 400}"'), MAX_COUNT, "no count that can be"),
        (FAILED, FAILED.replace("303", "-1e999"), 0, "no count: taken as 0"),
        (FAILED, FAILED.replace("303", "NaN"), 0, "no count: taken as 0"),
        ('"Company-X"', '"Company-\\ud800"', 303, "organization-name: half a surrogate pair"),
        ('"Company-X"', "1e999", 303, "organization-name: a number"),
        ('"Company-X"', '"Company\tX"', 303, "no strict JSON"),
        ('{"organization', '{"x": [1e999, "\\udfff"], "organization', 303, "no strict JSON"),
    ],
)
def test_what_no_json_parser_need_take_costs_one_member(
    old: str, new: str, failed: int, oddity: str
) -> None:
    text = _body({}).decode()
    assert old in text
    read = read_json(text.replace(old, new).encode())
    assert read.report.failed == failed
    assert any(oddity in text for text in read.oddities)
    assert len(read.report.policies[0].failures) == 3


def test_details_without_a_total_are_failures() -> None:
    read = read_json(_body({f"{P}.summary": ABSENT}))
    assert read.report.failed == 303
    assert any("taken as 303" in odd for odd in read.oddities)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_forgiven(encoding: str) -> None:
    read = read_json(_body({}).decode().encode(encoding))
    assert read.report.organization_name == "Company-X"
    assert read.oddities[0] == "a byte-order mark at the start"


def test_invalid_utf8_does_not_lose_a_report() -> None:
    read = read_json(_body({}).replace(b"Company-X", b"Company-\xff"))
    assert read.report.organization_name == "Company-\ufffd"
    assert read.oddities[0].startswith("not UTF-8")


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        (b"", "report-not-json"),
        (b"<feedback/>", "report-not-json"),
        (b"[]", "report-not-object"),
        (b"{}", "report-not-tls"),
        (b'{"policies": []}', "report-no-date-range"),
        (_body({"date-range": "x"}), "report-no-date-range"),
        (_body({"date-range.start-datetime": 1}), "report-date"),
        (_body({"date-range.start-datetime": "yesterday"}), "report-date"),
        (_body({"date-range.start-datetime": "0001-01-01T00:00:00+23:59"}), "report-date"),
        (_body({"date-range.start-datetime": "9999-12-31T24:00:00Z"}), "report-date"),
        (_body({"policies": None}), "report-no-policies"),
        (b"[" * 100_000 + b"]" * 100_000, "report-too-deep"),
        (b'{"policies": [' + b"[]," * 1_000_000 + b"[]]}", "report-too-large"),
        (b" " * (MAX_UNPACKED + 1), "report-too-large"),
        (b'{"policies": [], "x": "\\ud800"}', "report-no-date-range"),
        (b'{"policies": [], "x": "\\ud800', "report-not-json"),
    ],
)
def test_what_is_no_report_is_refused_with_a_reason(body: bytes, slug: str) -> None:
    with pytest.raises(ReportError) as caught:
        read_json(body)
    assert caught.value.slug == slug
    assert str(caught.value).isprintable()


def test_oddities_are_bounded() -> None:
    details = [{"result-type": f"odd-{n}"} for n in range(1000)]
    read = read_json(_body({f"{P}.failure-details": details}))
    assert len(read.oddities) == MAX_ODDITIES
    assert len(read.report.policies[0].failures) == 1000


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"organization_name": ""}, "organization-name"),
        ({"organization_name": "a\nb"}, "organization-name"),
        ({"contact_info": "x"}, "contact-info"),
        ({"contact_info": "x@y.example\r\nBcc: z"}, "contact-info"),
        ({"report_id": "no-domain"}, "report-id"),
        ({"report_id": "a>\r\n@b.example"}, "report-id"),
        ({"end": datetime(2026, 3, 31, tzinfo=UTC)}, "date-range"),
        ({"start": datetime(2026, 3, 31)}, "date-range"),
        ({"policies": ()}, "policies"),
    ],
)
def test_a_report_that_is_not_valid_is_not_written(change: dict[str, Any], place: str) -> None:
    with pytest.raises(ReportError) as caught:
        msgspec.structs.replace(REPORT, **change).render()
    assert caught.value.place == place


@pytest.mark.parametrize(
    ("policy", "failure", "counts", "place"),
    [
        ({"policy_type": "tls"}, {}, (1, 1), "policy.policy-type"),
        ({"policy_domain": "münchen.example"}, {}, (1, 1), "policy.policy-domain"),
        ({"mx_host": ("*.*.example",)}, {}, (1, 1), "policy.mx-host"),
        ({"policy_string": ("a\rb",)}, {}, (1, 1), "policy.policy-string"),
        ({}, {}, (-1, 1), "summary.total-successful-session-count"),
        ({}, {}, (1, 2**53), "summary.total-failure-session-count"),
        ({}, {"result_type": "odd"}, (1, 1), "failure-details[0].result-type"),
        ({}, {"failed_session_count": 0}, (1, 1), "failure-details[0].failed-session-count"),
        ({}, {"receiving_ip": "192.0.2.300"}, (1, 1), "failure-details[0].receiving-ip"),
        ({}, {"sending_mta_ip": "2001:DB8::1"}, (1, 1), "failure-details[0].sending-mta-ip"),
        ({}, {"receiving_mx_hostname": "a b"}, (1, 1), "failure-details[0].receiving-mx-hostname"),
        ({}, {"receiving_mx_helo": "a\r\nb"}, (1, 1), "failure-details[0].receiving-mx-helo"),
        (
            {},
            {"failure_reason_code": "x" * 5000},
            (1, 1),
            "failure-details[0].failure-reason-code",
        ),
    ],
)
def test_a_policy_result_that_is_not_valid_is_not_written(
    policy: dict[str, Any], failure: dict[str, Any], counts: tuple[int, int], place: str
) -> None:
    result = PolicyResult(
        msgspec.structs.replace(STS, **policy),
        *counts,
        (msgspec.structs.replace(EXPIRED, **failure),),
    )
    with pytest.raises(ReportError) as caught:
        msgspec.structs.replace(REPORT, policies=(result,)).render()
    assert caught.value.place == f"policies[0].{place}"


def test_every_result_type_has_a_number_a_meaning_and_advice() -> None:
    assert len(RESULTS) == len(CODES) == 11
    assert all(r.meaning.endswith(".") and r.advice.endswith(".") for r in RESULTS.values())
    assert set(POLICY_CODES.values()) == set(POLICY_TYPES)


@given(REPORTS)
def test_reading_what_was_written_is_the_identity(report: Report) -> None:
    read = read_json(report.render())
    assert read.report == report
    # a session may fail in several ways (section 4); it is told all the same
    assert [odd for odd in read.oddities if "where the total is" not in odd] == []


_json = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30),
        st.sampled_from(["2026-04-01T00:00:00Z", "[1", '["a"]', "9999-12-31T23:59:60Z"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                [
                    "policies", "policy", "summary", "date-range", "start-datetime",
                    "end-datetime", "failure-details", "mx-host", "policy-string", "policy-type",
                    "contact-info", "report-id", "failed-session-count", "result-type",
                ]
            ),
            inner,
            max_size=6,
        ),
    ),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=300)
@given(
    _json, _json, st.sampled_from(["2026-04-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "x", ""])
)
def test_any_json_gives_a_report_or_the_declared_error(
    policies: object, extra: object, moment: str
) -> None:
    data = {
        "date-range": {"start-datetime": moment, "end-datetime": "2026-04-01T00:00:00Z"},
        "policies": policies,
        "report-id": extra,
    }
    for body in (json.dumps(data).encode(), json.dumps(extra).encode()):
        try:
            read = read_json(body)
        except ReportError as error:
            assert str(error).isprintable()
        else:
            assert all(oddity.isprintable() for oddity in read.oddities)
            msgspec.json.encode(read.report.plain())


@given(st.binary(max_size=300))
def test_any_bytes_give_a_report_or_the_declared_error(body: bytes) -> None:
    try:
        read_json(body)
    except ReportError as error:
        assert str(error).isprintable()


# Splitting


@given(REPORTS, st.integers(1500, 6000))
def test_the_pieces_of_a_report_are_small_valid_distinct_and_sum_up(
    report: Report, limit: int
) -> None:
    try:
        pieces = split(report, limit)
    except ReportError as error:
        assert error.slug == "report-too-large"
        return
    assert all(len(piece.render()) <= limit for piece in pieces)
    assert len({piece.report_id for piece in pieces}) == len(pieces)
    assert sum(p.successful for p in pieces) == report.successful
    assert sum(p.failed for p in pieces) == report.failed
    assert [f for p in pieces for r in p.policies for f in r.failures] == [
        f for r in report.policies for f in r.failures
    ]


def test_a_large_report_is_split_within_its_policy() -> None:
    failures = tuple(
        msgspec.structs.replace(EXPIRED, receiving_ip=f"192.0.{n // 250}.{n % 250}")
        for n in range(10_000)
    )
    report = msgspec.structs.replace(REPORT, policies=(PolicyResult(STS, 7, 1_000_003, failures),))
    pieces = split(report, 100_000)
    assert 10 < len(pieces) < 40
    assert [p.successful for p in pieces] == [7] + [0] * (len(pieces) - 1)
    assert sum(p.failed for p in pieces) == 1_000_003


def test_a_report_that_fits_is_left_alone() -> None:
    assert split(REPORT) == [REPORT]


def test_a_failure_that_fits_no_report_is_an_error() -> None:
    with pytest.raises(ReportError) as caught:
        split(REPORT, 400)
    assert caught.value.slug == "report-too-large"
