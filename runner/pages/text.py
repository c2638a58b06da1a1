"""Text that agents and tasks wrote, made fit for a page: readable, bounded, and nothing but text."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# Controls that a browser would drop or obey, and signs that turn the direction of what follows them.
_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")


@dataclass(frozen=True)
class Excerpt:
    """A text's head and, where `left_out` characters between are missing, its tail."""

    head: str
    left_out: int = 0
    tail: str = ""

    def __bool__(self) -> bool:
        return bool(self.head or self.tail)


def readable(text: str) -> str:
    """Colours taken out, line ends made one, and odd characters named (`⟨U+202E⟩`)."""
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    text = text.encode("utf-8", "replace").decode("utf-8")
    return _ODD.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def excerpt(text: str, limit: int) -> Excerpt:
    """At most about `limit` characters of a text: two thirds of them from its head."""
    # A bound before the work: nobody reads a megabyte, and each of its characters would be looked at.
    if len(text) > 4 * limit:
        head, tail = readable(text[: 2 * limit]), readable(text[-2 * limit :])
    else:
        head = tail = readable(text)
        if len(head) <= limit:
            return Excerpt(head)
    front = limit * 2 // 3
    back = limit - front
    return Excerpt(head[:front], len(text) - front - back, tail[-back:])
