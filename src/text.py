"""Text for logs, records and errors: without secrets, and on one line."""

from __future__ import annotations

import json
from collections.abc import Iterable

REDACTED = "[REDACTED]"
_SHORTEST_SECRET = 4


class Redactor:
    """Replace secrets in texts with `[REDACTED]` (docs/contract.md, Environment variables).

    A secret is found as it stands and as JSON writes it within a string. Secrets of fewer than four
    characters are ignored: replacing them would mangle ordinary text.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                forms |= {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            if form in text:
                text = text.replace(form, REDACTED)
        return text


def one_line(text: str, limit: int = 600) -> str:
    """Return the text as one printable line of at most `limit` characters.

    Control characters and runs of white space become single spaces, lone surrogates question marks.
    """
    clean = text.encode("utf-8", errors="replace").decode("utf-8")
    line = " ".join("".join(c if c.isprintable() else " " for c in clean).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
