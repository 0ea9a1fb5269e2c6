"""What a policy says: TXT records, policy documents, MX host patterns (RFC 8461), and the
same of the first draft (draft-margolis-smtp-sts-00). No I/O.

    >>> from smtp_sts.policy import Policy, find_record
    >>> find_record([b"v=STSv1; id=20160831085700Z;"]).id
    '20160831085700Z'
    >>> policy = Policy.parse(b"version: STSv1\\nmode: enforce\\nmx: *.example.net\\nmax_age: 86")
    >>> policy.matches("mail.example.net"), policy.matches("a.b.example.net")
    (True, False)
    >>> find_draft_record([b"v=STS1; to=true; mx=*.example.com; e=2592000"], "example.com").mode
    'enforce'

Promises: bytes in, values or precise errors out; the errors are `ValueError`s with a slug, a line
and a column where they help.
"""

from smtp_sts.policy.dialect import DIALECTS, Dialect
from smtp_sts.policy.document import MAX_AGE, MAX_RENDERED, MAX_SIZE, Mode, Policy
from smtp_sts.policy.draft00 import (
    Constraint,
    DraftRecord,
    body_difference,
    body_matches,
    draft_record_name,
    find_draft_record,
)
from smtp_sts.policy.draft00_authentication import Authentication
from smtp_sts.policy.draft00_rua import ReportUri
from smtp_sts.policy.errors import LanguageError, NextHopError, PolicyError, RecordError
from smtp_sts.policy.nexthop import (
    NextHop,
    parse_next_hop,
    policy_domain,
    policy_host,
    policy_url,
    record_name,
)
from smtp_sts.policy.record import Record, find_record

__all__ = [
    "DIALECTS",
    "MAX_AGE",
    "MAX_RENDERED",
    "MAX_SIZE",
    "Authentication",
    "Constraint",
    "Dialect",
    "DraftRecord",
    "LanguageError",
    "Mode",
    "NextHop",
    "NextHopError",
    "Policy",
    "PolicyError",
    "Record",
    "RecordError",
    "ReportUri",
    "body_difference",
    "body_matches",
    "draft_record_name",
    "find_draft_record",
    "find_record",
    "parse_next_hop",
    "policy_domain",
    "policy_host",
    "policy_url",
    "record_name",
]
