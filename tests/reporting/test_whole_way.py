"""From outcomes to the JSON that others read: every session is in it once, whatever came."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtp_sts.reporting import aggregate as bounds
from smtp_sts.reporting.aggregate import DAY, Aggregate
from smtp_sts.reporting.compile import Sender, compile_reports
from smtp_sts.reporting.outcome import Outcome, Trouble
from smtp_sts.store.tallies import open_tallies
from smtp_sts.tlsrpt import RESULTS, AppliedPolicy, read_json

TODAY = 20_000
SENDER = Sender("Alice", "tls@alice.example")

_text = st.text(max_size=12)
_troubles = st.builds(
    Trouble,
    st.sampled_from([*RESULTS, "of-the-future"]),
    st.sampled_from(["", "192.0.2.1", "2001:db8::1", "no address"]),
    st.sampled_from(["", "mx.bob.example", "MX .example"]),
    receiving_mx_helo=_text,
    additional_information=_text,
    failure_reason_code=_text,
)
_policies = st.builds(
    AppliedPolicy,
    st.sampled_from(["sts", "tlsa", "no-policy-found", "", "other"]),
    st.sampled_from(["bob.example", "mx.bob.example", ""]),
    st.lists(_text, max_size=2).map(tuple),
    st.lists(st.sampled_from(["mx.bob.example", "*.bob.example", "?"]), max_size=2).map(tuple),
)
_sessions = st.lists(
    st.tuples(
        st.sampled_from(["a.example", "b.example"]),
        _policies,
        st.none() | st.lists(_troubles, max_size=3).map(tuple),
        st.booleans(),
    ),
    max_size=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(sessions=_sessions, limit=st.sampled_from([20_000, 10_000_000]))
def test_every_session_is_in_the_report_once(
    tmp_path_factory: pytest.TempPathFactory,
    sessions: list[tuple[str, AppliedPolicy, tuple[Trouble, ...] | None, bool]],
    limit: int,
) -> None:
    tallies = open_tallies(f"sqlite:///{tmp_path_factory.mktemp('way')}/s.db")
    good: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    details: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "MAX_FAILURES", 4)
        patch.setattr(bounds, "MAX_POLICIES", 3)
        counting = Aggregate()
        for domain, policy, troubles, write in sessions:
            failed = troubles is not None
            counting.take(Outcome(TODAY * DAY + 9.0, "log", domain, failed, policy, troubles or ()))
            (bad if failed else good)[domain] += 1
            # of one session, failures of the same kind count once (RFC 8460 section 4)
            details[domain] += len(set(troubles or ()))
            if write:
                tallies.add(counting.drain())
        tallies.add(counting.drain())
    for domain in ("a.example", "b.example"):
        reports = compile_reports(TODAY, domain, tallies.results(TODAY, domain), SENDER, limit)
        read = [read_json(report.render()) for report in reports]
        # A session that failed in two ways has two details, which is told of as it is.
        assert all("a sum of" in odd for r in read for odd in r.oddities)
        assert sum(r.report.successful for r in read) == good[domain]
        assert sum(r.report.failed for r in read) == bad[domain]
        assert details[domain] == sum(
            failure.failed_session_count
            for r in read
            for policy in r.report.policies
            for failure in policy.failures
        )
    tallies.close()
