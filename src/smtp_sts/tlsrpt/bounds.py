"""What reading a stranger's report may cost: every bound on it, in one place. No I/O.

`open_report` looks at no more than this of whatever bytes it is given. What is beyond the bounds of
the first four groups is refused with a reason, before it is parsed; of a report beyond those of the
last group so much is kept, and what is left out is counted and said. Together they hold any input
below a second of CPU and 300 MB of memory (tests/tlsrpt/test_tlsrpt_bounds.py). The largest reports
that were seen have a few hundred kilobytes.
"""

from __future__ import annotations

from typing import Final

# Bytes

#: A mail as it came: base64 makes four bytes of three, and a mail has a header.
MAX_MAIL: Final = 16 * 1024 * 1024
#: A file as it came, packed or not.
MAX_PACKED: Final = 16 * 1024 * 1024
#: JSON or XML, unpacked; of a mail all of its parts together.
MAX_UNPACKED: Final = 16 * 1024 * 1024

# Of a file with several reports, which share all other bounds

#: Mails of an mbox, and reports of all mails, that are looked at.
MAX_MAILS: Final = 20
MAX_REPORTS: Final = 20

# Of packed files

#: gzip files in one; each costs a copy of the rest.
MAX_GZIP_MEMBERS: Final = 16
#: Entries of a ZIP archive that are looked at to find that it has one file.
MAX_ZIP_ENTRIES: Final = 16

# Of a mail

#: Line ends (CR and LF each count), and lines that may begin a part.
MAX_LINE_ENDS: Final = 700_000
MAX_DELIMITERS: Final = 2_000
#: Parts of all kinds, those inside others too, and how deep they may be nested.
MAX_PARTS: Final = 100
MAX_MIME_DEPTH: Final = 10
#: Header fields, and their characters, of all parts together.
MAX_HEADERS: Final = 2_000
MAX_HEADER_TEXT: Final = 256 * 1024
#: Characters of one Content-* field: its parameters are read over and over.
MAX_CONTENT_FIELD: Final = 2_048
#: Parts that look like a report, and are read as one.
MAX_TRIED: Final = 5

# Of JSON and XML

#: Commas, colons and brackets of JSON: the memory that values take once they are decoded.
MAX_VALUES: Final = 800_000
#: Tags and attributes of XML (about half a kilobyte each), prefixes of namespaces, and levels.
MAX_TAGS: Final = 100_000
MAX_PREFIXES: Final = 64
MAX_DEPTH: Final = 32

# Of a report

#: Policies, failures of all policies together, and strings of all policies together.
MAX_POLICIES: Final = 1_000
MAX_FAILURES: Final = 20_000
MAX_STRINGS: Final = 20_000
#: Strings of one list (`policy-string`, `mx-host`), and characters of a list that came as a string.
MAX_LIST: Final = 1_000
MAX_LIST_TEXT: Final = 128 * 1024
#: Characters of one text, and of all texts together.
MAX_TEXT: Final = 2_048
MAX_ALL_TEXT: Final = 4 * 1024 * 1024
#: Characters of a date-time.
MAX_MOMENT: Final = 64
#: Sentences about oddities, and about what the schema of the first draft has against it.
MAX_ODDITIES: Final = 20
MAX_FAULTS: Final = 20
