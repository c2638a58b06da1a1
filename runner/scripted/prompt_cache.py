"""A simulation of the provider's prefix cache: exact prefixes, whole units of 64 tokens, one cache a run.

What is cached after a call is its prompt and its answer, as the provider documents. The tools come first,
then the messages, so a changed schema loses everything and a changed message everything after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.relay.tokens import TokenCounts

UNIT = 64

Segment = tuple[str, ...]
"""The tools, or one message: its texts in order. Compared as it is, joined only where a prefix ends in it."""


@dataclass(slots=True)
class _Node:
    """A point in a prompt: what has followed it so far, by the segment's text."""

    children: dict[Segment, _Node] = field(default_factory=dict)


class PrefixCache:
    """What one run has sent so far."""

    def __init__(self) -> None:
        self._root = _Node()

    def hit(self, segments: Sequence[Segment], sizes: Sequence[int], counts: TokenCounts) -> int:
        """Tokens at the start of a prompt that an earlier one began with, in whole units."""
        node, tokens = self._root, 0
        for segment, size in zip(segments, sizes, strict=True):
            child = node.children.get(segment)
            if child is None:
                shared = max(
                    (_shared("".join(segment), "".join(known)) for known in node.children),
                    key=len,
                    default="",
                )
                tokens += min(size, counts.text(shared))
                break
            node, tokens = child, tokens + size
        return tokens // UNIT * UNIT

    def add(self, segments: Sequence[Segment]) -> None:
        """Remembers a prompt (and, as its last segment, the answer to it)."""
        node = self._root
        for segment in segments:
            node = node.children.setdefault(segment, _Node())


def _shared(one: str, other: str) -> str:
    """The common start of two texts, found by halving."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return one[:low]


def head_segment(payload: Mapping[str, Any]) -> Segment:
    """What stands before the messages: model, tools, and whether the model thinks."""
    thinking = payload.get("thinking") or {"type": "enabled"}
    head = [payload.get("tools") or [], payload.get("model"), thinking]
    return (json.dumps(head, ensure_ascii=False),)


def message_segment(message: Mapping[str, Any], *, reasoning: bool) -> Segment:
    """One message in the order of the chat template."""
    content = message.get("content")
    parts = [
        str(message.get("role")),
        message.get("reasoning_content") or "" if reasoning else "",
        content if isinstance(content, str) else json.dumps(content, ensure_ascii=False),
    ]
    for call in message.get("tool_calls") or ():
        parts += [call["id"], call["function"]["name"], call["function"]["arguments"]]
    parts.append(message.get("tool_call_id") or "")
    return tuple(parts)
