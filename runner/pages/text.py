"""Preparing text from agents and tasks for a page: readable, bounded and inert."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# Control characters that a browser drops or obeys, and marks that change the direction of text.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")


@dataclass(frozen=True)
class Excerpt:
    """The head of a text, and its tail if `left_out` characters between them are missing."""

    head: str
    left_out: int = 0
    tail: str = ""

    def __bool__(self) -> bool:
        return bool(self.head or self.tail)


def readable(text: str) -> str:
    """Remove colours, unify line ends and name unsafe characters (`⟨U+202E⟩`)."""
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    text = text.encode("utf-8", "replace").decode("utf-8")
    return _UNSAFE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def excerpt(text: str, limit: int) -> Excerpt:
    """Return about `limit` characters of a text at most, two thirds of them from its head."""
    # Cut a long text first, because `readable` looks at every character.
    if len(text) > 4 * limit:
        head, tail = readable(text[: 2 * limit]), readable(text[-2 * limit :])
    else:
        head = tail = readable(text)
        if len(head) <= limit:
            return Excerpt(head)
    front = limit * 2 // 3
    back = limit - front
    return Excerpt(head[:front], len(text) - front - back, tail[-back:])
