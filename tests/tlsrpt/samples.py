"""A report to start from, and a strategy for all others."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import strategies as st

from smtp_sts.tlsrpt import RESULTS, AppliedPolicy, Failure, PolicyResult, Report, day_range
from smtp_sts.tlsrpt.names import ip_address
from smtp_sts.tlsrpt.results import POLICY_TYPES

START, END = day_range(datetime(2026, 4, 1, 12, tzinfo=UTC))
STS = AppliedPolicy(
    "sts",
    "company-y.example",
    ("version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"),
    ("*.mail.company-y.example",),
)
EXPIRED = Failure(
    "certificate-expired",
    303,
    sending_mta_ip="2001:db8:abcd:12::1",
    receiving_mx_hostname="mx1.mail.company-y.example",
)
REPORT = Report(
    "Company-X",
    START,
    END,
    "sts-reporting@company-x.example",
    "5065427c-23d3-47ca@company-x.example",
    (PolicyResult(STS, 5326, 303, (EXPIRED,)),),
)


# What any valid report is made of

_domains = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\.(example|test)", fullmatch=True)
_texts = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, include_characters="äß漢"), max_size=40
)
#: as RFC 5952 has them, which Python itself does from 3.13 on
_ips = st.one_of(st.just(""), st.ip_addresses().map(lambda ip: ip_address(str(ip))))
_counts = st.integers(0, 2**53 - 1)
_failures = st.builds(
    Failure,
    st.sampled_from(sorted(RESULTS)),
    st.integers(1, 1000),
    _ips,
    st.one_of(st.just(""), _domains),
    _texts,
    _ips,
    _texts,
    _texts,
)
_policies = st.builds(
    PolicyResult,
    st.builds(
        AppliedPolicy,
        st.sampled_from(POLICY_TYPES),
        _domains,
        st.lists(_texts.filter(lambda line: line and not line.startswith('["')), max_size=4).map(
            tuple
        ),
        st.lists(_domains.map(lambda d: f"*.{d}"), max_size=3).map(tuple),
    ),
    _counts,
    st.integers(0, 5000),
    st.lists(_failures, max_size=5).map(tuple),
)
_days = st.datetimes(
    datetime(1971, 1, 1),
    datetime(9000, 1, 1),
    timezones=st.just(UTC),
).map(day_range)
REPORTS = st.builds(
    lambda organization, day, domain, left, policies: Report(
        organization, day[0], day[1], f"tlsrpt@{domain}", f"{left}@{domain}", tuple(policies)
    ),
    _texts.filter(bool),
    _days,
    _domains,
    st.from_regex(r"[A-Za-z0-9+_-]{1,20}", fullmatch=True),
    st.lists(_policies, min_size=1, max_size=4),
)
