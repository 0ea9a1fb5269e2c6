"""What a TLS report says: the record that asks for it, its JSON, its mail (RFC 8460), and the XML
reports of the first draft (draft-margolis-smtp-sts-00). No I/O.

    >>> from smtp_sts.tlsrpt import find_record
    >>> find_record([b"v=TLSRPTv1; rua=mailto:reports@example.com"]).rua[0].target
    'reports@example.com'

Promises: bytes in, values or precise errors out; the errors are `ValueError`s with a slug. Read
leniently (`open_report`, `read_json`, `read_xml`), write strictly (`render`, `compose`).
"""

from smtp_sts.tlsrpt.draft00_conversion import (
    Converted,
    DraftConverted,
    is_draft_policy,
    to_draft,
    to_rfc8460,
)
from smtp_sts.tlsrpt.draft00_mail import compose_draft, draft_file_name, split_draft
from smtp_sts.tlsrpt.draft00_reading import ReadDraftReport, read_xml
from smtp_sts.tlsrpt.draft00_report import DraftFailure, DraftReport
from smtp_sts.tlsrpt.draft00_results import DRAFT_RESULTS
from smtp_sts.tlsrpt.envelope import (
    MEDIA_TYPE_GZIP,
    MEDIA_TYPE_JSON,
    SIGNED_HEADERS,
    Enclosed,
    Opened,
    compose,
    file_name,
    open_report,
    open_reports,
    subject,
)
from smtp_sts.tlsrpt.errors import EnvelopeError, RecordError, ReportError, TlsrptError
from smtp_sts.tlsrpt.packing import pack, unpack
from smtp_sts.tlsrpt.reading import ReadReport, read_json
from smtp_sts.tlsrpt.record import Destination, Record, destination, find_record, record_name
from smtp_sts.tlsrpt.report import AppliedPolicy, Failure, PolicyResult, Report, day_range
from smtp_sts.tlsrpt.results import RESULTS, Result
from smtp_sts.tlsrpt.splitting import MAX_REPORT, split

__all__ = [
    "DRAFT_RESULTS",
    "MAX_REPORT",
    "MEDIA_TYPE_GZIP",
    "MEDIA_TYPE_JSON",
    "RESULTS",
    "SIGNED_HEADERS",
    "AppliedPolicy",
    "Converted",
    "Destination",
    "DraftConverted",
    "DraftFailure",
    "DraftReport",
    "Enclosed",
    "EnvelopeError",
    "Failure",
    "Opened",
    "PolicyResult",
    "ReadDraftReport",
    "ReadReport",
    "Record",
    "RecordError",
    "Report",
    "ReportError",
    "Result",
    "TlsrptError",
    "compose",
    "compose_draft",
    "day_range",
    "destination",
    "draft_file_name",
    "file_name",
    "find_record",
    "is_draft_policy",
    "open_report",
    "open_reports",
    "pack",
    "read_json",
    "read_xml",
    "record_name",
    "split",
    "split_draft",
    "subject",
    "to_draft",
    "to_rfc8460",
    "unpack",
]
