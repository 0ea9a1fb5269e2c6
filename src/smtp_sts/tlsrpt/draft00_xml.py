"""XML reports as a document: bytes to a checked tree, and a tree to bytes. No I/O.

The schema is draft00.xsd, that of appendix 3 of draft-margolis-smtp-sts-00. Promises: no document
type, no entity, no file, no network, no compression is ever looked at, whatever the bytes ask for;
what is too large, too deep or not well formed raises `ReportError`, and nothing else comes out. The
only module that loads libxml2; who does not meet XML does not pay for it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Final, TypeAlias

from lxml import etree

from smtp_sts.tlsrpt.bounds import MAX_DEPTH, MAX_FAULTS, MAX_PREFIXES, MAX_TAGS, MAX_UNPACKED
from smtp_sts.tlsrpt.errors import ReportError, shown
from smtp_sts.tlsrpt.names import clean

NAMESPACE: Final = "http://www.example.org/smtp-sts-xml/0.1"
_RECORDS_AT_ONCE: Final = 500

#: What a report is written from: names with a text, or with what stands inside.
Node: TypeAlias = "tuple[str, str | Sequence[Node]]"

_DECLARED: Final = re.compile(
    rb"""\s*<\?xml[^>]{0,100}?\sencoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']"""
)
_DECLARATION: Final = re.compile(r"\s*<\?xml\b[^>]{0,200}\?>\s*")
# Those that reports are written in; of Python's other codecs some are no encodings of text.
_ENCODINGS: Final = {
    "utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "utf-8", "ascii": "utf-8",
    "iso-8859-1": "iso-8859-1", "latin1": "iso-8859-1", "windows-1252": "cp1252",
}  # fmt: skip
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"<\x00", "utf-16-le"),
    (b"\x00<", "utf-16-be"),
)


@cache
def _schema() -> etree.XMLSchema:
    text = (files("smtp_sts.tlsrpt") / "draft00.xsd").read_bytes()
    return etree.XMLSchema(etree.fromstring(text, _parser()))


def _parser() -> etree.XMLParser:
    # One parser a document: what one stranger's document left in it is nothing to the next.
    return etree.XMLParser(
        encoding="utf-8",  # whatever the document declares: it is decoded already
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )


def document(nodes: Sequence[Node]) -> bytes:
    """A `feedback` document with these nodes. Raises ReportError where the schema refuses it."""
    root = etree.Element(f"{{{NAMESPACE}}}feedback", nsmap={None: NAMESPACE})  # type: ignore[dict-item]
    _fill(root, nodes)
    etree.indent(root)
    body = etree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"
    if faults := schema_faults(root):
        raise ReportError("report-schema", faults[0])
    return body


def _fill(parent: etree._Element, nodes: Sequence[Node]) -> None:
    for name, content in nodes:
        child = etree.SubElement(parent, f"{{{NAMESPACE}}}{name}")
        if isinstance(content, str):
            child.text = content
        else:
            _fill(child, content)


def parse(body: bytes) -> tuple[etree._Element, list[str]]:
    """The root of a document, its elements all in `NAMESPACE`; and what was odd.

    Elements without a namespace are taken: the schema of appendix 3, by its letter, has them so.
    Raises ReportError.
    """
    if len(body) > MAX_UNPACKED:
        raise ReportError("report-too-large", f"{len(body)} bytes of XML; {MAX_UNPACKED} at most")
    oddities: list[str] = []
    text = _decode(body, oddities)
    # Without a document type there are no entities but the five of XML itself.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ReportError(
            "report-doctype", "a document type in it: reports have none, and it is not looked at"
        )
    if text.count("<") + text.count("=") > MAX_TAGS:
        raise ReportError("report-too-large", f"more than {MAX_TAGS} tags and attributes in it")
    # libxml2 goes through them one by one, for each element
    if text.count("xmlns:") > MAX_PREFIXES:
        raise ReportError("report-too-large", f"more than {MAX_PREFIXES} namespace prefixes in it")
    text = _DECLARATION.sub("", text, count=1)
    try:
        root = etree.fromstring(text.encode(), _parser())
    except etree.XMLSyntaxError as error:
        why = clean(str(error.msg or "no document in it"), 200)
        raise ReportError("report-not-xml", f"not XML: {shown(why)}") from None
    _settle(root, oddities)
    return root, oddities


def _decode(body: bytes, oddities: list[str]) -> str:
    encoding = next((name for mark, name in _MARKS if body.startswith(mark)), "")
    if not encoding:
        declared = _DECLARED.match(body)
        name = declared[1].decode().lower() if declared else "utf-8"
        encoding = _ENCODINGS.get(name, "")
        if not encoding:
            oddities.append(f"encoding {shown(name)} is not known, or wrong: read as UTF-8")
            encoding = "utf-8"
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        oddities.append(f"not {encoding} at byte {error.start}")
        text = body.decode(encoding, "replace")
    return text.removeprefix("\ufeff")


def _settle(root: etree._Element, oddities: list[str]) -> None:
    """Every element into the one namespace, and no deeper than can be."""
    strange = ""
    attributes = False
    depth = 0
    for event, element in etree.iterwalk(root, events=("start", "end")):
        if event == "end":
            depth -= 1
            continue
        depth += 1
        if depth > MAX_DEPTH:
            raise ReportError("report-too-deep", "nested too deeply for a report")
        if element.attrib:  # the schema has none, and would be as slow at saying so for each
            attributes = True
            element.attrib.clear()
        name = etree.QName(element)
        if name.namespace != NAMESPACE:
            strange = strange or name.namespace or ""
            element.tag = f"{{{NAMESPACE}}}{name.localname}"
    if attributes:
        oddities.append("elements have attributes: left out")
    if strange:
        oddities.append(f"namespace {shown(strange)} is not {NAMESPACE}")


def schema_faults(root: etree._Element) -> list[str]:
    """What the schema has against a document, in sentences; empty where it is valid.

    Takes the document's records away.
    """
    # For each of its errors libxml2 counts the siblings before it: a quarter of a million bad
    # records take minutes. So records are shown to it a few at a time, up to the first fault.
    schema = _schema()
    records = root.findall(f"{{{NAMESPACE}}}record")
    for record in records:
        root.remove(record)
    for start in range(0, max(1, len(records)), _RECORDS_AT_ONCE):
        some = records[start : start + _RECORDS_AT_ONCE]
        root.extend(some)
        if not schema.validate(root):
            return [_fault(entry) for entry in list(schema.error_log)[:MAX_FAULTS]]  # type: ignore[call-overload]
        for record in some:
            root.remove(record)
    return []


def _fault(entry: etree._LogEntry) -> str:
    text = clean(entry.message.replace(f"{{{NAMESPACE}}}", ""), 300)
    return f"line {entry.line}: {ascii(text)[1:-1]}"
