"""What the daemon writes to standard error: one event a line, as text or as JSON.

Promises: a line is one line, bounded, and nothing in it is a control character or changes the
direction of text, whoever wrote what is logged (law 5); the JSON form has `time`, `level`, `event`,
`message`, `pid`, and what the event is about: `domain`, `outcome`, `reason`, `policy_id` and so on,
under `extra={"fields": {...}}` where it is logged.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from smtp_sts.config import LogSection

#: Characters of a message or a field, at most; what is cut off is marked by "...".
MAX_TEXT: Final = 2000
#: The same for a traceback, which is put into the same line.
MAX_TRACEBACK: Final = 8000


def set_up(settings: LogSection) -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Text without control characters and no longer than `limit` (law 5)."""
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


class TextLines(logging.Formatter):
    """`smtp-sts[42] INFO bob.example: policy ...`; who keeps the lines adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = f"smtp-sts[{record.process}] {record.levelname} {printable(record.getMessage())}"
        trace = _traceback(self, record)
        return f"{line} | {trace}" if trace else line


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        data: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": "log",
            "message": printable(record.getMessage()),
            "pid": record.process,
        }
        for name, value in getattr(record, "fields", {}).items():
            data[name] = printable(value) if isinstance(value, str) else value
        if trace := _traceback(self, record):
            data["traceback"] = trace
        return msgspec.json.encode(data).decode()


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info:
        return ""
    lines = formatter.formatException(record.exc_info).splitlines()
    return printable(" | ".join(line.strip() for line in lines), MAX_TRACEBACK)
