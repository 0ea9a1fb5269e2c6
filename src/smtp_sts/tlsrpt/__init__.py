"""What a TLS report says: the record that asks for it, its JSON, its mail (RFC 8460). No I/O.

    >>> from smtp_sts.tlsrpt import find_record
    >>> find_record([b"v=TLSRPTv1; rua=mailto:reports@example.com"]).rua[0].target
    'reports@example.com'

Promises: bytes in, values or precise errors out; the errors are `ValueError`s with a slug. Read
leniently (`open_report`, `read_json`), write strictly (`Report.render`, `compose`).
"""

from smtp_sts.tlsrpt.envelope import (
    MEDIA_TYPE_GZIP,
    MEDIA_TYPE_JSON,
    SIGNED_HEADERS,
    Enclosed,
    compose,
    file_name,
    open_report,
    subject,
)
from smtp_sts.tlsrpt.errors import EnvelopeError, RecordError, ReportError, TlsrptError
from smtp_sts.tlsrpt.packing import pack, unpack
from smtp_sts.tlsrpt.reading import ReadReport, read_json
from smtp_sts.tlsrpt.record import Destination, Record, find_record, record_name
from smtp_sts.tlsrpt.report import AppliedPolicy, Failure, PolicyResult, Report, day_range
from smtp_sts.tlsrpt.results import RESULTS, Result
from smtp_sts.tlsrpt.splitting import MAX_REPORT, split

__all__ = [
    "MAX_REPORT",
    "MEDIA_TYPE_GZIP",
    "MEDIA_TYPE_JSON",
    "RESULTS",
    "SIGNED_HEADERS",
    "AppliedPolicy",
    "Destination",
    "Enclosed",
    "EnvelopeError",
    "Failure",
    "PolicyResult",
    "ReadReport",
    "Record",
    "RecordError",
    "Report",
    "ReportError",
    "Result",
    "TlsrptError",
    "compose",
    "day_range",
    "file_name",
    "find_record",
    "open_report",
    "pack",
    "read_json",
    "record_name",
    "split",
    "subject",
    "unpack",
]
