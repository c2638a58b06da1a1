"""Choosing a script for a conversation, and the position in it, from the conversation alone.

Nothing is remembered between calls. So one server plays many tasks and trials at once, a repeated
request gets the same answer, and a resumed run continues where it was. The exception is a fault
that happens a limited number of times: those are counted per run.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Protocol, runtime_checkable

from runner.json_values import JsonObject, as_text, is_list, objects_in
from runner.relay.wire import ApiError, ModelRequest
from runner.scripted.format import Answer, Fault, ScriptFile, ScriptRule
from runner.scripted.reply import Reply, reply_from

_TURN_ID = re.compile(r"call_(\d{3,})_[0-9a-f]{8}_\d+")


@runtime_checkable
class PythonScript(Protocol):
    """A script in Python. `respond` may be a coroutine, and may raise ApiError."""

    def matches(self, request: ModelRequest) -> bool: ...

    def respond(self, request: ModelRequest) -> Reply | Awaitable[Reply]: ...


class FilePlayer:
    """Plays one script file."""

    def __init__(self, script: ScriptFile) -> None:
        self.script = script
        self._tag = hashlib.sha256(script.name.encode()).hexdigest()[:8]
        self._faults: Counter[tuple[str, str]] = Counter()

    @property
    def matches_any(self) -> bool:
        """Whether the script plays for any conversation."""
        return self.script.match is None and self.script.match_regex is None

    def matches(self, request: ModelRequest) -> bool:
        """Return whether the script plays for this conversation."""
        script = self.script
        text = first_user_text(request.messages)
        if script.match is not None and script.match not in text:
            return False
        return script.match_regex is None or re.search(script.match_regex, text) is not None

    def respond(self, request: ModelRequest) -> Reply:
        """Return the answer to a request: a rule's, the turn's, or the script's closing text."""
        rule = self._rule(request.messages)
        if rule is not None:
            number = self.script.rule.index(rule)
            fault = self._fault(request.run, f"rule {number}", rule)
            return reply_from(
                rule, call_prefix=f"call_r{number:02d}_{_digest(request.messages)}", fault=fault
            )
        position = self.position(request.messages)
        if position >= len(self.script.turn):
            return Reply(content=self.script.closing)
        turn = self.script.turn[position]
        fault = self._fault(request.run, f"turn {position}", turn)
        return reply_from(turn, call_prefix=f"call_{position:03d}_{self._tag}", fault=fault)

    def position(self, messages: Sequence[JsonObject]) -> int:
        """Return the number of turns that the conversation has had.

        Call ids contain the number of their turn, so the position is right even after older
        messages were summarised. An answer without calls counts as one turn. Answers to rules do
        not count.
        """
        position = 0
        rule_texts = {rule.content for rule in self.script.rule if not rule.tool_calls}
        for message in messages:
            if message.get("role") != "assistant":
                continue
            ids = [str(call.get("id", "")) for call in objects_in(message.get("tool_calls"))]
            numbers = [int(match[1]) for id_ in ids if (match := _TURN_ID.fullmatch(id_))]
            if numbers:
                position = max(numbers) + 1
                continue
            by_rule = any(id_.startswith("call_r") for id_ in ids) or message.get("content") in rule_texts
            position += not by_rule
        return position

    def forget(self, run: str) -> None:
        """Drop the fault counts of a run that has ended."""
        for key in [key for key in self._faults if key[0] == run]:
            del self._faults[key]

    def _rule(self, messages: Sequence[JsonObject]) -> ScriptRule | None:
        if not messages or messages[-1].get("role") != "user":
            return None
        text = message_text(messages[-1])
        return next((rule for rule in self.script.rule if re.search(rule.when, text)), None)

    def _fault(self, run: str, place: str, answer: Answer) -> Fault | None:
        """Return the fault of this attempt: the first that has not happened often enough."""
        if not answer.faults:
            return None
        key = (run, place)
        attempt = self._faults[key]
        self._faults[key] += 1
        for fault in answer.faults:
            if fault.times == 0 or attempt < fault.times:
                return fault
            attempt -= fault.times
        return None


def first_user_text(messages: Sequence[JsonObject]) -> str:
    """Return the text of the first user message, or an empty string."""
    return next((message_text(message) for message in messages if message.get("role") == "user"), "")


def message_text(message: JsonObject) -> str:
    """Return the text of a message. The texts of several parts are joined by line breaks."""
    content = message.get("content")
    if is_list(content):
        return "\n".join(str(part.get("text", "")) for part in objects_in(content))
    return as_text(content)


def no_script_error(request: ModelRequest, names: Sequence[str]) -> ApiError:
    """Return the error for a conversation that no script matches."""
    start = " ".join(first_user_text(request.messages).split())[:80]
    return ApiError(
        400,
        f"the model is scripted and no script matches a conversation that begins {start!r}; "
        f"scripts: {', '.join(names) or 'none'}",
        code="no_script",
    )


def _digest(messages: Sequence[JsonObject]) -> str:
    """Return eight hex digits that differ between the calls of a conversation."""
    text = f"{len(messages)} {message_text(messages[-1])}"
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
