"""A simulation of the provider's prefix cache (docs/contract.md, Prefix cache).

It works on exact prefixes in whole units of 64 tokens, with one cache per run. A call caches its
prompt and its answer. The tools come first and then the messages, so a changed schema loses
everything, and a changed message loses everything after it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from runner.json_values import JsonObject, as_object, as_text, objects_in
from runner.relay.tokens import TokenCounts

UNIT = 64

Segment = tuple[str, ...]
"""The texts of one message, or of the tools. They are joined only where a prefix ends inside."""


@dataclass(slots=True)
class _Node:
    """A point in a prompt, with the segments that have followed it."""

    children: dict[Segment, _Node] = field(default_factory=dict[Segment, "_Node"])


class PrefixCache:
    """The prompts and answers of one run."""

    def __init__(self) -> None:
        self._root = _Node()

    def hit(self, segments: Sequence[Segment], sizes: Sequence[int], counts: TokenCounts) -> int:
        """Return the tokens at the start of a prompt that are cached, in whole units.

        Args:
            sizes: The tokens of each segment.
        """
        node, tokens = self._root, 0
        for segment, size in zip(segments, sizes, strict=True):
            child = node.children.get(segment)
            if child is None:
                shared = max(
                    (_common_prefix("".join(segment), "".join(known)) for known in node.children),
                    key=len,
                    default="",
                )
                tokens += min(size, counts.text(shared))
                break
            node, tokens = child, tokens + size
        return tokens // UNIT * UNIT

    def add(self, segments: Sequence[Segment]) -> None:
        """Cache a prompt, with the answer as its last segment."""
        node = self._root
        for segment in segments:
            node = node.children.setdefault(segment, _Node())


def _common_prefix(one: str, other: str) -> str:
    """Return the common start of two texts, by binary search."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return one[:low]


def head_segment(payload: JsonObject) -> Segment:
    """Return the segment before the messages: tools, model and the thinking mode."""
    thinking = payload.get("thinking") or {"type": "enabled"}
    head: list[object] = [payload.get("tools") or [], payload.get("model"), thinking]
    return (json.dumps(head, ensure_ascii=False),)


def message_segment(message: JsonObject, *, reasoning: bool) -> Segment:
    """Return the segment of a message, in the order of the chat template."""
    content = message.get("content")
    parts = [
        str(message.get("role")),
        as_text(message.get("reasoning_content")) if reasoning else "",
        content if isinstance(content, str) else json.dumps(content, ensure_ascii=False),
    ]
    for call in objects_in(message.get("tool_calls")):
        function = as_object(call.get("function"))
        parts += [as_text(call.get("id")), as_text(function.get("name")), as_text(function.get("arguments"))]
    parts.append(as_text(message.get("tool_call_id")))
    return tuple(parts)
