"""One line per log record, for a person or as JSON. Never the text of a user: callers log ids, counts and reasons."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def setup(level: str = "info", json_lines: bool = False, stream: TextIO | None = None) -> None:
    """Send the log of this process to ``stream`` (stderr), one line each. Called again, it replaces the first set-up.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        json_lines: one JSON object per line instead of text.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if json_lines else Plain())
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, (JsonLines, Plain)):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    for noisy in ("httpx", "httpcore", "urllib3", "filelock", "asyncio", "faust", "mode"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # What it says at each attempt to connect, the connector says once.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    # uvicorn would announce each start and stop, and print a traceback of what the process boundary already reports.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """``extra=fields(version=..., step=...)``: values that become fields of the line."""
    return {"fields": values}


def decision(kind: str, /, **values: object) -> dict[str, dict[str, object]]:
    """``extra=decision("promotion", version=...)``: one line for each decision, with the numbers that it was made by.

    They are fields of a JSON line. On a line for a person they are not: the message says in words what matters. What
    is empty or ``None`` is left out.
    """
    return {"decision": {"decision": kind} | {k: v for k, v in values.items() if v is not None and v != ""}}


class Plain(logging.Formatter):
    """``12:34:56 info serve: message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        name = record.name.removeprefix("stream_ft.")
        extra = "".join(f" {key}={value}" for key, value in getattr(record, "fields", {}).items())
        return one_line(f"{clock} {record.levelname.lower()} {name}: {record.getMessage()}{extra}{_where(record)}")


class JsonLines(logging.Formatter):
    """One JSON object: ``time`` (seconds since the epoch), ``level``, ``logger``, ``message`` and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": one_line(record.getMessage() + _where(record)),
        }
        more = getattr(record, "decision", {}) | getattr(record, "fields", {})
        return json.dumps(line | more, default=str)


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters: nobody can forge a second line."""
    return "".join(char if char.isprintable() else " " for char in text)


def _where(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return f" [{where(record.exc_info[1])}]"


def where(error: BaseException) -> str:
    """Type and innermost place of an exception. Not its message or a traceback: they may quote a user's text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{place}"
