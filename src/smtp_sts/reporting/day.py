"""What is to be reported to a domain of a UTC day: the one way from the counts to the results.

Promises: whoever makes, previews or sends a report has the same results. Must not: be called on an
event loop (it blocks).
"""

from __future__ import annotations

from smtp_sts.reporting.honest import Checked, with_checks
from smtp_sts.store.tallies import Tallies


def results_of(tallies: Tallies, day: int, domain: str, *, check_testing: bool) -> Checked:
    """The results of a day (days since the epoch). Raises StoreError.

    Without `check_testing` (`[tls_reports] check_testing`) what the MTA said of sessions in testing
    mode stands as it is: nobody has looked.
    """
    results = tallies.results(day, domain)
    if not check_testing:
        return Checked(results)
    return with_checks(results, tallies.checks.of(day, domain))
