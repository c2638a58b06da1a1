"""Turns without a tool call: the model claims to be done, or it stopped too early."""

from __future__ import annotations

import re
from enum import Enum, auto

from src.llm.messages import Message
from src.loop.prompts import prompt

# An announcement at the very end of a turn ("Let me now run the tests.") is not a result.
_ANNOUNCES = re.compile(
    r"(?:^|[.!?:;]\s+|\n\s*)(?:(?:now|next|first|then|so|okay|ok|great)[,:]?\s+)*"
    r"(?:let me|let's|i will|i'll|i am going to|i'm going to|i need to|i should|we need to|we should)"
    r"\b(?:[^.!?\n]|[.!?](?=\S))*[.:…!]*\s*$",  # a dot within a name, as in main.py, ends no sentence
    re.IGNORECASE,
)


class Turn(Enum):
    """The kinds of turns that call no tool."""

    SILENT = auto()
    NARRATED = auto()
    CLAIMED_DONE = auto()


def classify(message: Message) -> Turn:
    """Return the kind of an assistant message without tool calls."""
    text = message.content.strip()
    if not text:
        return Turn.SILENT
    return Turn.NARRATED if _ANNOUNCES.search(text[-400:]) else Turn.CLAIMED_DONE


class EndPolicy:
    """Decides what follows a turn without a tool call: a nudge, the verification, or the end.

    The first claim to be done is followed by the verification prompt, which repeats the task. The
    second one ends the run. Silent and narrated turns are followed by a nudge, but after
    `max_nudges` in a row they count as a claim.
    """

    def __init__(self, instruction: str, max_nudges: int) -> None:
        self._instruction = instruction
        self._max_nudges = max_nudges
        self._nudges = 0
        self.verified = False

    def reset_nudges(self) -> None:
        """Start counting nudges again, after a turn with tool calls."""
        self._nudges = 0

    def follow_up(self, message: Message) -> str | None:
        """Return the next user message, or None if the run is done."""
        turn = classify(message)
        if turn is not Turn.CLAIMED_DONE and self._nudges < self._max_nudges:
            self._nudges += 1
            return prompt("nudge_silent" if turn is Turn.SILENT else "nudge_narrated")
        self._nudges = 0
        if self.verified:
            return None
        self.verified = True
        return prompt("verify", instruction=self._instruction)

    def follow_up_cut(self, limit: int) -> str | None:
        """Return the user message after a truncated turn, or None after too many of them."""
        if self._nudges >= self._max_nudges:
            return None
        self._nudges += 1
        return prompt("nudge_cut", limit=limit)
