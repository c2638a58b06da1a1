"""`agent.log`: one line per event, for people. Every run has a logger of its own."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from src.text import Redactor


class _RedactingFormatter(logging.Formatter):
    """Formats the whole record, including a traceback, and then redacts it."""

    converter = time.gmtime

    def __init__(self, redact: Redactor) -> None:
        super().__init__("%(asctime)sZ %(levelname)-7s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


def make_log(logs_dir: Path | None, redact: Redactor) -> logging.Logger:
    """Return a logger that writes `logs_dir/agent.log`, and nothing to stdout.

    Without a writable folder the records are discarded: logging must never end a run.
    """
    log = logging.Logger("capstan", level=logging.INFO)
    handler: logging.Handler = logging.NullHandler()
    if logs_dir is not None:
        try:
            logs_dir.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(logs_dir / "agent.log", encoding="utf-8", errors="replace")
        except OSError:
            handler = logging.NullHandler()
    handler.setFormatter(_RedactingFormatter(redact))
    log.addHandler(handler)
    return log


def close_log(log: logging.Logger) -> None:
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
