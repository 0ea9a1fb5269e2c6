"""What reading a report costs, whatever bytes come: CPU and memory, as `tlsrpt/bounds.py` says.

All hostile inputs are read by one process of their own, which says of each what it took.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: CPU seconds of one input; the dearest takes 0.8 s alone on a core of 2020.
MAX_CPU = 6.0
#: What the process has in memory at the most, bytes; 45 MB without any input.
MAX_MEMORY = 400_000_000

READER = r"""
import base64, gzip, io, json, re, sys, time, zipfile, zlib
from smtp_sts.tlsrpt import TlsrptError, open_report
import smtp_sts.tlsrpt.draft00_xml

MB = 1_000_000
RANGE = ('"date-range":{"start-datetime":"2026-01-01T00:00:00Z",'
         '"end-datetime":"2026-01-01T23:59:59Z"}')

def report(policies):
    return ('{%s,"policies":[%s]}' % (RANGE, policies)).encode()

def many(one, number):
    return ",".join([one] * number)

def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files:
            archive.writestr(name, body)
    return out.getvalue()

def bomb(size):
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(b" " * MB) for _ in range(size)) + packer.flush()

def mail(kind, body, head=b""):
    return b"From: a@b.example\n" + head + b"Content-Type: " + kind + b"\n\n" + body

def mixed(body):
    return mail(b'multipart/mixed; boundary="x"', body)

B64 = b"Content-Transfer-Encoding: base64\n"
b64 = base64.encodebytes

def box(mails):
    return b"".join(b"From x Fri Mar 27 00:00:00 2026\n" + one + b"\n" for one in mails)

def packed_messages(levels, body):
    for _ in range(levels):
        body = mail(b"message/rfc822", b64(body), B64)
    return body

def nested(levels):
    return b"".join(b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (n, n)
                    for n in range(levels))

def cyclic(name):
    return b'<?xml version="1.0"?><!DOCTYPE feedback [' + b"".join(
        b'<!ENTITY %s%d "%s">' % (name, n + 1, (b"&%s%d;" % (name, n)) * 10) for n in range(20)
    ) + b']><feedback>&' + name + b'19;</feedback>'

HEAD = ('<feedback xmlns="http://www.example.org/smtp-sts-xml/0.1"><version>1</version>'
        '<report_metadata><org_name>x</org_name><email>a@b.c</email><report_id>1@b.c</report_id>'
        '<date_range><begin>1</begin><end>2</end></date_range></report_metadata><applied_policy>'
        '<domain>a.b</domain>%s<constraint>WebPKI</constraint></applied_policy>'
        '<enforcement_level>Reject</enforcement_level>%s</feedback>')

def xml(records, mx="<mx>*</mx>"):
    return (HEAD % (mx, records)).encode()

FAILURE = ('{"result-type":"certificate-expired","failed-session-count":1,'
           '"sending-mta-ip":"192.0.2.1","receiving-mx-hostname":"m.example"}')
DETAILED = '{"policy":{"policy-type":"sts","policy-domain":"a.b"},"failure-details":[%s]}'
TEXT = "\x9b\u202e\x7f" * 600

INPUTS = {
    # packed
    "gzip of blanks": lambda: bomb(1000),
    "gzip members": lambda: bomb(4) * 200,
    "gzip of gzip": lambda: gzip.compress(bomb(500)),
    "gzip stored": lambda: gzip.compress(b" " * 16 * MB, 0),
    "gzip of empty blocks": lambda: b"\x1f\x8b\x08" + bytes(7) + b"\0\0\0\xff\xff" * 3 * MB,
    "zip of blanks": lambda: zipped([("a", b" " * 300 * MB)]),
    "zip of files": lambda: zipped((str(n), b"") for n in range(60_000)),
    "zip directory": lambda: zipped([("a", b"{}")])[:33]
        + (b"PK\1\2" + bytes(42)) * 300_000 + b"PK\5\6" + bytes(18),
    # mails
    "empty parts": lambda: mixed(b"--x\n\n" * 3_000_000),
    "parts of reports": lambda: mixed(
        (b"--x\n\n" + report(many("{}", 250_000)).replace(b"date-range", b"-") + b"\n") * 20),
    "parts of bombs": lambda: mixed((b"--x\nContent-Transfer-Encoding: base64\n\n"
        + base64.encodebytes(bomb(15)) + b"\n") * 90),
    "nested multiparts": lambda: nested(900) + b"x\n" * 300_000,
    "ten levels": lambda: nested(10) + b"y" * 70 + b"x\n" * 600_000,
    "nested messages": lambda: b"Content-Type: message/rfc822\n\n" * 500_000,
    "digest": lambda: mail(b'multipart/digest; boundary="x"', b"--x\n\n\n" * 1_900),
    "delivery-status": lambda: mail(b"message/delivery-status", b"a: b\n\n" * 300_000),
    "lines": lambda: mail(b"text/plain", b"\n" * 15 * MB),
    "lines below the limit": lambda: mail(b"text/plain", b"\n" * 690_000),
    "long line": lambda: mail(b"text/plain", b"a" * 15 * MB),
    "long line of returns": lambda: mail(b"text/plain", (b"a" * 8000 + b"\r") * 1900),
    "header fields": lambda: b"a: b\n" * 300_000 + b"\nx",
    "header folds": lambda: b"a: b\n" + b" c\n" * 600_000 + b"\nx",
    "header line": lambda: b"From: " + b"\xff" * 15 * MB + b"\n\nx",
    "parameters": lambda: mixed((b"--x\nContent-Type: a/b" + b';a="' * 2500 + b"\n\n{\n") * 90),
    "parameters in pieces": lambda: mixed((b"--x\nContent-Disposition: a"
        + b"".join(b";filename*%d*=%%41" % n for n in range(100)) + b"\n\n{\n") * 90),
    "mbox of reports": lambda: box(mail(b"application/tlsrpt+json", b64(gzip.compress(
        report(many("{}", 390_000)))), B64) for _ in range(40)),
    "mbox of failures": lambda: box(mail(b"application/tlsrpt+json", b64(gzip.compress(
        report(DETAILED % many("{}", 20_000)))), B64) for _ in range(40)),
    "mbox of XML": lambda: box(mail(b"application/tlsrpt+json", b64(gzip.compress(
        xml("<record/>" * 40_000))), B64) for _ in range(40)),
    "mbox of bombs": lambda: box(mail(b"application/tlsrpt+gzip", b64(bomb(15)), B64)
        for _ in range(40)),
    "mbox of damage": lambda: box(mail(b"application/tlsrpt+gzip", b64(bomb(15)[:-9] + bytes(9)),
        B64) for _ in range(40)),
    "mbox of nothing": lambda: b"From a 1:2\n\n" * 1_300_000,
    "almost an mbox": lambda: b"From a 1:2\nA: b\n\n" + (b"From " + b"1:" * 200) * 35_000,
    "messages in base64": lambda: packed_messages(9, b"x\n" * 200_000),
    "messages in base64, wide": lambda: packed_messages(2, mail(b'multipart/mixed; boundary="x"',
        (b"--x\nContent-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n"
        + b64(b"From: a\n\n" + b"x" * 90_000) + b"\n") * 90)),
    "comments in a field": lambda: mixed((b"--x\nContent-Transfer-Encoding: " + b"(" * 1000
        + b")" * 1000 + b"base64\n\n{\n") * 90),
    "a slow character set": lambda: mail(b"text/plain; charset=punycode", b"a" * 15 * MB),
    "a slow set of bytes": lambda: mail(b"text/plain; charset=punycode", b"\xff-a" * 5 * MB),
    "base64 garbage": lambda: mail(b"application/tlsrpt+gzip", b"=?=!-" * 3 * MB,
        b"Content-Transfer-Encoding: base64\n"),
    "quoted garbage": lambda: mail(b"application/tlsrpt+gzip", b"=" * 15 * MB,
        b"Content-Transfer-Encoding: quoted-printable\n"),
    "uuencoded": lambda: mail(b"application/tlsrpt+gzip", b"begin 666 x\n" + b"M" * 14 * MB,
        b"Content-Transfer-Encoding: uuencode\n"),
    "no mail": lambda: b"a" * 15 * MB,
    "blanks": lambda: b" " * 15 * MB,
    # JSON
    "empty policies": lambda: gzip.compress(report(many("{}", 700_000))),
    "policies below the limit": lambda: report(many("{}", 390_000)),
    "policies of numbers": lambda: report(many("0", 790_000)),
    "strings": lambda: gzip.compress(report(many(
        '{"policy":{"policy-string":[%s]}}' % many('"x"', 700), 1000))),
    "failures": lambda: report(DETAILED % many(FAILURE, 95_000)),
    "empty failures": lambda: report(DETAILED % many("{}", 390_000)),
    "failures of policies": lambda: report(many(DETAILED % many(FAILURE, 90), 900)),
    "controls": lambda: report(many(
        '{"policy":{"policy-type":"sts","policy-domain":"%s"}}' % TEXT, 2500)),
    "a list in a string": lambda: report(
        '{"policy":{"policy-string":"[%s]"}}' % "\\u005b\\u005d\\u002c" * 350_000),
    "lines in a string": lambda: report('{"policy":{"mx-host":"%s"}}' % ("\\n" * 7 * MB)),
    "long string": lambda: report('"%s\U0001f600"' % ("x" * 15 * MB)),
    "long key": lambda: report('{"%s":1}' % ("x" * 15 * MB)),
    "long number": lambda: report('{"summary":{"x":%s}}' % ("1" * 5 * MB)),
    "exponent": lambda: report('{"summary":{"total-failure-session-count":1e300}}'),
    "repeated keys": lambda: report("{%s}" % many('"summary":{}', 250_000)),
    "keys": lambda: report("{%s}" % ",".join('"%d":1' % n for n in range(390_000))),
    "objects of one member": lambda: report(many('{"a":0}', 260_000)),
    "depth": lambda: b"[" * 15 * MB,
    "depth of objects": lambda: b'{"a":' * 2 * MB,
    "depth below the limit": lambda: b"[" * 900 + b"]" * 900,
    "wide and deep": lambda: report(many("[" * 500 + "]" * 500, 700)),
    "not UTF-8": lambda: b'{"a":"' + b"\xff" * 15 * MB + b'"}',
    "UTF-16": lambda: b"\xff\xfe" + ('{"a":"' + "\ud800" * 7 * MB + '"}').encode(
        "utf-16-le", "surrogatepass"),
    "date-time": lambda: b'{"date-range":{"start-datetime":"%s"},"policies":[]}' % (
        b":11" * 5 * MB),
    "lists in strings": lambda: report(many(
        '{"policy":{"mx-host":[%s]}}' % many('"[\\"a\\",\\"b\\"]"', 700), 200)),
    "lines in strings": lambda: report(many(
        '{"policy":{"policy-string":["%s"]}}' % ("\\na" * 60_000), 60)),
    "hosts in strings": lambda: report(many(
        '{"policy":{"mx-host":[%s]}}' % many('"%s"' % ("a " * 1000), 100), 60)),
    "surrogates": lambda: report('{"policy":{"policy-type":"%s"}}' % ("\\ud800" * 2 * MB)),
    "long numbers": lambda: report(many('{"summary":{"total-failure-session-count":%s}}'
        % ("1" * 4000), 3000)),
    # XML
    "entities": lambda: cyclic(b"e"),
    "external entity": lambda: b'<!DOCTYPE feedback SYSTEM "file:///etc/passwd"><feedback/>',
    "empty records": lambda: xml("<record/>" * 90_000),
    "records": lambda: xml(("<record><failure>NoSTARTTLS</failure><count>1</count>"
        "<hostname>a.b</hostname></record>") * 12_000),
    "records of DMARC": lambda: xml("<record><row/></record>" * 30_000),
    "tags": lambda: xml("<a/>" * 4 * MB),
    "patterns": lambda: xml("", "<mx>%s</mx>" % ("," * 15 * MB)),
    "many patterns": lambda: xml("", "<mx>*.a.b</mx>" * 45_000),
    "deep": lambda: xml("<a>" * 49_000),
    "attributes": lambda: xml("<record %s/>" % " ".join('a%d="x"' % n for n in range(90_000))),
    "long attribute": lambda: xml('<record a="%s"/>' % ("x" * 15 * MB)),
    "long text": lambda: xml("<record><failure>%s</failure></record>" % ("x" * 15 * MB)),
    "prefixes": lambda: xml("<record %s/>" % " ".join('xmlns:a%d="x"' % n for n in range(40_000))),
    "comments": lambda: xml("<!-- -->" * 90_000),
    "references": lambda: xml("<record><failure>%s</failure></record>" % ("&#120;" * 2 * MB)),
    "instructions": lambda: xml("<?a b?>" * 90_000),
    "CDATA": lambda: xml("<record>%s</record>" % ("<![CDATA[x]]>" * 90_000)),
}

def peak():
    status = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

for name, make in INPUTS.items():
    data = make()[: 17 * MB]
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    began, end = time.process_time(), "read"
    try:
        open_report(data)
    except TlsrptError as error:
        end = error.slug
    print(json.dumps([name, end, time.process_time() - began, peak() - len(data)]), flush=True)
"""


@pytest.fixture(scope="module")
def costs() -> dict[str, tuple[str, float, int]]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", READER], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = map(json.loads, done.stdout.splitlines())
    return {name: (end, cpu, memory) for name, end, cpu, memory in rows}


def test_any_input_has_a_bounded_cost(costs: dict[str, tuple[str, float, int]]) -> None:
    assert len(costs) > 60
    assert {n: c for n, c in costs.items() if c[1] > MAX_CPU or c[2] > MAX_MEMORY} == {}
