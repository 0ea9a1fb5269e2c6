"""What is to be reported to a domain of a UTC day: the one way from the counts to the results.

Promises: whoever makes, previews or sends a report has the same results. Must not: be called on an
event loop (it blocks).
"""

from __future__ import annotations

import msgspec

from smtp_sts.reporting.declared import as_declared, domains_of
from smtp_sts.reporting.honest import Checked, with_checks
from smtp_sts.store.tallies import Tallies


def results_of(tallies: Tallies, day: int, domain: str, *, check_testing: bool) -> Checked:
    """The results of a day (days since the epoch). Raises StoreError.

    Without `check_testing` (`[tls_reports] check_testing`) what the MTA said of sessions in testing
    mode stands as it is: nobody has looked.
    """
    results = tallies.results(day, domain)
    checked = Checked(results)
    if check_testing:
        checked = with_checks(results, tallies.checks.of(day, domain))
    texts = tallies.policy_texts(domains_of(checked.results))
    return msgspec.structs.replace(checked, results=as_declared(checked.results, texts))
