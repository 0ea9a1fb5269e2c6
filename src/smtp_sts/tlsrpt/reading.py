"""Reports as others write them: read whatever can be understood (RFC 8460 section 4.4). No I/O.

Promises: `read_json` gives a report with a list of what was odd about it, or raises `ReportError`;
nothing else comes out, whatever bytes go in. What it costs is bounded (`bounds`); what is beyond is
counted. Every oddity it forgives was seen in a report of a
large sender, or in one that another reader refused whole. Text of strangers is kept as it came, but
for lone surrogates and its length; who prints it cleans it (`names.clean`).
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from smtp_sts.tlsrpt.bounds import (
    MAX_ALL_TEXT,
    MAX_FAILURES,
    MAX_LIST,
    MAX_LIST_TEXT,
    MAX_MOMENT,
    MAX_ODDITIES,
    MAX_POLICIES,
    MAX_STRINGS,
    MAX_TEXT,
    MAX_UNPACKED,
    MAX_VALUES,
)
from smtp_sts.tlsrpt.errors import ReportError, shown
from smtp_sts.tlsrpt.names import domain_name
from smtp_sts.tlsrpt.report import (
    MAX_COUNT,
    AppliedPolicy,
    Failure,
    PolicyResult,
    Report,
)
from smtp_sts.tlsrpt.results import POLICY_TYPES, RESULTS

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_COUNT: Final = re.compile(r"[0-9]{1,400}", re.ASCII)
#: Digits of a number that are looked at; those with more are larger than any count.
_DIGITS: Final = 400
#: A string of an array that is an array itself, or has several lines.
_TAKEN_APART: Final = re.compile(r'\A\s*\["|\S\s*\n\s*\S')
_SEPARATOR: Final = re.compile(r"[,;\s]+")
_DETAILS: Final = "failed sessions in failure-details"


class LeftOut(msgspec.Struct, frozen=True):
    """How much of a report is beyond `bounds`, and so is not in what was read.

    `successful` and `failed` are the sessions under `policies`, and `failed_sessions` those of
    `failures`. `texts` are those that were cut or left out.
    """

    policies: int = 0
    successful: int = 0
    failed: int = 0
    failures: int = 0
    failed_sessions: int = 0
    strings: int = 0
    texts: int = 0
    oddities: int = 0

    def sentences(self) -> list[str]:
        """The same for people; empty where nothing was left out."""
        said = []
        if self.policies:
            said.append(
                f"{self.policies:,} policies beyond the first {MAX_POLICIES:,}, with "
                f"{self.successful:,} good and {self.failed:,} failed sessions"
            )
        if self.failures:
            said.append(
                f"{self.failures:,} failure details beyond the first {MAX_FAILURES:,}, of "
                f"{self.failed_sessions:,} sessions"
            )
        if self.strings:
            said.append(f"{self.strings:,} policy lines and MX hosts")
        if self.texts:
            said.append(f"the end, or the whole, of {self.texts:,} texts")
        if self.oddities:
            said.append(f"{self.oddities:,} more that is not as it should be")
        return said


class Allowance:
    """What may still be read, of all reports of one file or mail together (`bounds`)."""

    def __init__(self) -> None:
        self.values = MAX_VALUES
        self.policies = MAX_POLICIES
        self.failures = MAX_FAILURES
        self.strings = MAX_STRINGS
        self.characters = MAX_ALL_TEXT


class ReadReport(msgspec.Struct, frozen=True):
    """A report, and sentences on what about it is not as RFC 8460 has it; "" for absent text."""

    report: Report
    oddities: tuple[str, ...]
    left_out: LeftOut = LeftOut()


def read_json(body: bytes, allowance: Allowance | None = None) -> ReadReport:
    """Read one report, within what `allowance` leaves. Raises ReportError."""
    if len(body) > MAX_UNPACKED:
        raise ReportError("report-too-large", f"{len(body)} bytes of JSON; {MAX_UNPACKED} at most")
    reader = _Reader(allowance or Allowance())
    data = _decode(body, reader)
    if not isinstance(data, dict):
        raise ReportError("report-not-object", "the JSON is no object, so no TLS report")
    report = reader.report(data)
    left = {name: min(count, MAX_COUNT) for name, count in reader.left.items()}
    return ReadReport(report, tuple(reader.oddities), LeftOut(**left))


def _decode(body: bytes, reader: _Reader) -> object:
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            reader.odd("", "a byte-order mark at the start")
            body = body[len(mark) :].decode(encoding, "replace").encode()
            break
    values = sum(map(body.count, (b",", b":", b"[", b"{")))
    if values > reader.allowed.values:
        raise ReportError("report-too-large", f"more than {MAX_VALUES} values in it")
    reader.allowed.values -= values
    try:
        body.decode()
    except UnicodeDecodeError as error:
        reader.odd("", f"not UTF-8 at byte {error.start}")
        body = body.decode("utf-8", "replace").encode()
    try:
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            # One member of a kind that no parser need take (RFC 8259 section 9) loses no report.
            data = _forgiving(body)
            reader.odd("", f"no strict JSON: {shown(str(error))}")
            return data
    except ValueError as error:
        raise ReportError("report-not-json", f"not JSON: {shown(str(error))}") from None
    except RecursionError:
        raise ReportError("report-too-deep", "nested too deeply for a report") from None


def _forgiving(body: bytes) -> object:
    """JSON with what the strict parser refuses: escaped lone surrogates, numbers beyond all bounds,
    NaN, control characters within strings. Raises ValueError."""

    def whole(text: str) -> float | int:
        return int(text) if len(text) <= _DIGITS else math.copysign(math.inf, float(text[:2]))

    return json.loads(body.decode(), parse_int=whole, strict=False)


class _Reader:
    """Takes a decoded report apart and remembers what was odd."""

    def __init__(self, allowed: Allowance) -> None:
        self.oddities: list[str] = []
        #: by the names of `LeftOut`
        self.left: Counter[str] = Counter()
        self.allowed = allowed

    def odd(self, place: str, message: str) -> None:
        if len(self.oddities) < MAX_ODDITIES:
            self.oddities.append(f"{place}: {message}" if place else message)
        else:
            self.left["oddities"] += 1

    def report(self, data: dict[str, Any]) -> Report:
        if "policies" not in data and "date-range" not in data:
            raise ReportError("report-not-tls", "neither policies nor a date-range in it")
        date_range = data.get("date-range")
        if not isinstance(date_range, dict):
            raise ReportError("report-no-date-range", "no date-range object", place="date-range")
        start = self.moment("date-range.start-datetime", date_range.get("start-datetime"))
        end = self.moment("date-range.end-datetime", date_range.get("end-datetime"))
        if end < start:
            self.odd("date-range", "ends before it begins")
        elif end - start > timedelta(hours=24):
            self.odd("date-range", "longer than a day")
        policies = data.get("policies")
        if isinstance(policies, dict):
            self.odd("policies", "an object where an array belongs")
            policies = [policies]
        elif not isinstance(policies, list):
            raise ReportError("report-no-policies", "no array of policies", place="policies")
        room = self.allowed.policies
        self.allowed.policies -= min(len(policies), room)
        for policy in policies[room:]:
            self.leave_policy(policy)
        return Report(
            organization_name=self.text("organization-name", data.get("organization-name"), True),
            start=start,
            end=end,
            contact_info=self.text("contact-info", data.get("contact-info"), True),
            report_id=self.text("report-id", data.get("report-id"), True),
            policies=tuple(
                self.policy_result(f"policies[{i}]", p)
                for i, p in enumerate(policies[:room])
                if self.is_object(f"policies[{i}]", p)
            ),
        )

    def leave_policy(self, data: object) -> None:
        """Of what is beyond the bounds its sessions are counted all the same."""
        self.left["policies"] += 1
        summary = data.get("summary") if isinstance(data, dict) else None
        if not isinstance(summary, dict):
            return
        for name, key in (
            ("successful", "total-successful-session-count"),
            ("failed", "total-failure-session-count"),
        ):
            if value := summary.get(key):
                self.left[name] += self.count(f"policies.summary.{key}", value)

    def is_object(self, place: str, value: object) -> bool:
        if isinstance(value, dict):
            return True
        self.odd(place, "no object: left out")
        return False

    def text(self, place: str, value: object, needed: bool = False) -> str:
        """A string; "" for what is absent."""
        if value is None or value == "":
            if needed:
                self.odd(place, "absent or empty")
            return ""
        if isinstance(value, bool | int | float):
            self.odd(place, "a number where a string belongs")
            value = str(value)
        elif not isinstance(value, str):
            self.odd(place, "no string: left out")
            return ""
        if len(value) > MAX_TEXT:
            self.odd(place, f"longer than {MAX_TEXT} characters: cut")
            self.left["texts"] += 1
            value = value[:MAX_TEXT]
        if len(value) > self.allowed.characters:
            self.left["texts"] += 1
            return ""
        self.allowed.characters -= len(value)
        fit = _SURROGATE.sub("\ufffd", value)
        if fit != value:
            self.odd(place, "half a surrogate pair: replaced")
        return fit

    def count(self, place: str, value: object) -> int:
        if isinstance(value, str) and _COUNT.fullmatch(value[: _DIGITS + 2].strip()):
            self.odd(place, "a string where a number belongs")
            value = int(value)
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        elif isinstance(value, float) and 0 < value < MAX_COUNT:
            self.odd(place, "no whole number: taken as the next greater")
            value = math.ceil(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if 0 <= value <= MAX_COUNT:
                return int(value)
            if value > MAX_COUNT:  # whatever it is, it is not nothing
                self.odd(place, f"no count that can be: taken as {MAX_COUNT}")
                return MAX_COUNT
        self.odd(place, "absent: taken as 0" if value is None else "no count: taken as 0")
        return 0

    def moment(self, place: str, value: object) -> datetime:
        if not isinstance(value, str):
            raise ReportError("report-date", "absent, or no string", place=place)
        # RFC 3339 section 5.6: T and Z may be small
        text = value[: MAX_MOMENT + 1].strip().upper()
        if len(text) > MAX_MOMENT:
            raise ReportError("report-date", f"{shown(value)} is no date-time", place=place)
        next_day = re.search(r"[Tt ]24:00(:00(\.0+)?)?", text)  # the RFC itself writes 0000-2400
        if next_day:
            text = text.replace("24:00", "00:00", 1)
        text = re.sub(r"(:[0-9]{2}):60", r"\1:59", text)  # a leap second (RFC 3339 section 5.7)
        if zone := re.search(r" *(UTC|GMT| Z| [+-][0-9:]{4,5})$", text):
            self.odd(place, "not as RFC 3339 writes a zone")
            text = text[: zone.start()] + ("Z" if zone[1].isalpha() else zone[1].strip())
        try:
            moment = datetime.fromisoformat(text)
            if next_day:
                moment += timedelta(days=1)
            if moment.tzinfo is None:
                self.odd(place, "no zone: taken as UTC")
                return moment.replace(tzinfo=UTC)
            return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            raise ReportError(
                "report-date", f"{shown(value)} is no date-time of RFC 3339", place=place
            ) from None

    def texts(self, place: str, value: object) -> tuple[str, ...]:
        """An array of strings, or what some send in its place."""
        if value is None or value == "":
            return ()
        if isinstance(value, str):
            self.odd(place, "a string where an array belongs")
            if len(value) > MAX_LIST_TEXT:
                self.odd(place, f"longer than {MAX_LIST_TEXT} characters: cut")
                self.left["texts"] += 1
            value = self.within(place, value[:MAX_LIST_TEXT])
        elif not isinstance(value, list):
            self.odd(place, "no array: left out")
            return ()
        value = self.flat(place, value)
        if len(value) > MAX_LIST:
            self.odd(place, f"more than {MAX_LIST} entries: cut")
        room = min(MAX_LIST, self.allowed.strings)
        self.left["strings"] += max(0, len(value) - room)
        self.allowed.strings -= min(len(value), room)
        entries = (self.text(f"{place}[{i}]", v) for i, v in enumerate(value[:room]))
        return tuple(filter(None, entries))

    def flat(self, place: str, entries: list[Any]) -> list[Any]:
        """The entries of an array, those of arrays and lines that stand in its strings too."""
        found: list[Any] = []
        room = MAX_LIST_TEXT
        told = False
        for entry in entries[:MAX_LIST]:
            inner: list[Any] = [entry]
            if isinstance(entry, list):
                inner = entry
            elif isinstance(entry, str) and _TAKEN_APART.search(entry):
                room -= len(entry)
                inner = [entry] if room < 0 else self.within(place, entry)
            if inner != [entry] and not told:
                told = True
                self.odd(place, "an array or several lines where one string belongs")
            found += inner
        return found + entries[MAX_LIST:]

    def within(self, place: str, value: str) -> list[Any]:
        """The entries of a string: a JSON array, as Microsoft has it, or lines."""
        if value.lstrip().startswith("["):
            try:
                inner = msgspec.json.decode(value)
            except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
                self.odd(place, "looks like JSON and is not")
            else:
                if isinstance(inner, list):
                    return inner
        return [line.strip() for line in value.splitlines()] or [value]

    def policy_result(self, place: str, data: dict[str, Any]) -> PolicyResult:
        policy, summary = data.get("policy"), data.get("summary")
        if not isinstance(policy, dict):
            self.odd(f"{place}.policy", "absent, or no object")
            policy = {}
        if not isinstance(summary, dict):
            self.odd(f"{place}.summary", "absent, or no object")
            summary = {}
        details = data.get("failure-details")
        where = f"{place}.failure-details"
        if isinstance(details, dict):
            self.odd(where, "an object where an array belongs")
            details = [details]
        elif not isinstance(details, list):
            if "failure-details" in data:
                self.odd(where, "no array: taken as empty")
            details = []
        room = self.allowed.failures
        self.allowed.failures -= min(len(details), room)
        for failure in details[room:]:
            self.left["failures"] += 1
            if isinstance(failure, dict) and (sessions := failure.get("failed-session-count")):
                self.left["failed_sessions"] += self.count(where, sessions)
        failures = tuple(
            self.failure(f"{where}[{i}]", f)
            for i, f in enumerate(details[:room])
            if self.is_object(f"{where}[{i}]", f)
        )
        return PolicyResult(
            policy=self.policy(f"{place}.policy", policy),
            successful=self.count(
                f"{place}.summary.total-successful-session-count",
                summary.get("total-successful-session-count"),
            ),
            failed=self.failed(f"{place}.summary", summary, where, failures, len(details) > room),
            failures=failures,
        )

    def failed(
        self,
        place: str,
        summary: dict[str, Any],
        where: str,
        failures: tuple[Failure, ...],
        cut: bool,
    ) -> int:
        """The total of failed sessions; where there is none, what the details sum to."""
        name = "total-failure-session-count"
        details = min(sum(failure.failed_session_count for failure in failures), MAX_COUNT)
        if summary.get(name) is None and details:
            self.odd(f"{place}.{name}", f"absent: taken as {details}, the sum of {_DETAILS}")
            return details
        total = self.count(f"{place}.{name}", summary.get(name))
        if failures and total != details and not cut:
            # Section 4: more is no fault where a session failed in several ways.
            self.odd(where, f"a sum of {details} {_DETAILS}, where the total is {total}")
        return total

    def policy(self, place: str, data: dict[str, Any]) -> AppliedPolicy:
        kind = self.text(f"{place}.policy-type", data.get("policy-type"), True)
        if kind and kind not in POLICY_TYPES:
            self.odd(f"{place}.policy-type", f"{shown(kind)} is no known type")
        domain = self.text(f"{place}.policy-domain", data.get("policy-domain"), True)
        mx = self.texts(f"{place}.mx-host", data.get("mx-host"))
        if any(host.startswith("mx:") for host in mx):
            self.odd(f"{place}.mx-host", 'entries begin with "mx:"')
        mx = tuple(host.removeprefix("mx:").strip() for host in mx)
        if any(_SEPARATOR.search(host) for host in mx):
            self.odd(f"{place}.mx-host", "several hosts in one string")
            hosts = [name for host in mx for name in _SEPARATOR.split(host) if name]
            room = min(MAX_LIST, len(mx) + self.allowed.strings)
            self.left["strings"] += max(0, len(hosts) - room)
            self.allowed.strings -= min(len(hosts), room) - len(mx)
            mx = tuple(hosts[:room])
        return AppliedPolicy(
            policy_type=kind,
            policy_domain=domain_name(domain) or domain,
            policy_string=self.texts(f"{place}.policy-string", data.get("policy-string")),
            mx_host=mx,
        )

    def failure(self, place: str, data: dict[str, Any]) -> Failure:
        kind = self.text(f"{place}.result-type", data.get("result-type"), True)
        if kind and kind not in RESULTS:
            self.odd(f"{place}.result-type", f"{shown(kind)} is no known type")

        def text(name: str, *others: str) -> str:
            given = next((n for n in (name, *others) if n in data), name)
            if given != name:
                self.odd(f"{place}.{given}", f"its name is {name}")
            return self.text(f"{place}.{given}", data.get(given))

        return Failure(
            result_type=kind,
            failed_session_count=self.count(
                f"{place}.failed-session-count", data.get("failed-session-count")
            ),
            sending_mta_ip=text("sending-mta-ip"),
            receiving_mx_hostname=text("receiving-mx-hostname"),
            receiving_mx_helo=text("receiving-mx-helo"),
            receiving_ip=text("receiving-ip"),
            # the name in the prose of section 4.4, and the one in the example of appendix B
            additional_information=text("additional-information", "additional-info-uri"),
            failure_reason_code=text("failure-reason-code", "failure-error-code"),
        )
