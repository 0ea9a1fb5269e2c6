"""Who meets no XML does not pay for libxml2."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import smtp_sts.tlsrpt, smtp_sts.reporting.draft00, smtp_sts.policy
from smtp_sts.tlsrpt import TlsrptError, open_report
try:
    open_report(b'{"policies": 1}')
except TlsrptError:
    pass
assert not any(name.partition(".")[0] == "lxml" for name in sys.modules)
"""


def test_libxml2_is_loaded_for_xml_alone() -> None:
    subprocess.run([sys.executable, "-P", "-c", PROGRAM], check=True, timeout=60)
