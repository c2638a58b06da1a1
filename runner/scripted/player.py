"""Chooses a script for a conversation and the place in it, from the conversation alone.

Nothing is remembered between calls, so one server plays many tasks and trials at once, a repeated request
gets the same answer, and a resumed run goes on where it was. The one exception is a fault that has a
number of times to happen: those are counted per run.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from runner.relay.wire import ApiError, ModelRequest
from runner.scripted.format import Answer, Fault, Rule, ScriptFile
from runner.scripted.reply import Reply, reply_from

_TURN_ID = re.compile(r"call_(\d{3,})_[0-9a-f]{8}_\d+")


@runtime_checkable
class PythonScript(Protocol):
    """A script in Python. `respond` may be a coroutine; it may raise ApiError to answer with a status."""

    def matches(self, request: ModelRequest) -> bool: ...

    def respond(self, request: ModelRequest) -> Reply | Awaitable[Reply]: ...


class FilePlayer:
    """Plays one script file."""

    def __init__(self, script: ScriptFile) -> None:
        self.script = script
        self._tag = hashlib.sha256(script.name.encode()).hexdigest()[:8]
        self._faults: Counter[tuple[str, str]] = Counter()

    def matches(self, request: ModelRequest) -> bool:
        """Whether the script is for this conversation; a script without match and match_regex is for any."""
        script = self.script
        if script.match is None and script.match_regex is None:
            return True
        text = first_user_text(request.messages)
        if script.match is not None and script.match not in text:
            return False
        return script.match_regex is None or re.search(script.match_regex, text) is not None

    def respond(self, request: ModelRequest) -> Reply:
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

    def position(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """How many turns of the script the conversation has seen.

        Call ids carry the number of their turn, so the place is found also after older messages were
        summarised away; answers without calls count one each. Answers to rules do not count.
        """
        position = 0
        by_rule = {rule.content for rule in self.script.rule if not rule.tool_calls}
        for message in messages:
            if message.get("role") != "assistant":
                continue
            ids = [str(call.get("id", "")) for call in message.get("tool_calls") or ()]
            numbers = [int(found[1]) for id_ in ids if (found := _TURN_ID.fullmatch(id_))]
            if numbers:
                position = max(numbers) + 1
            elif not any(id_.startswith("call_r") for id_ in ids) and message.get("content") not in by_rule:
                position += 1
        return position

    def forget(self, run: str) -> None:
        for key in [key for key in self._faults if key[0] == run]:
            del self._faults[key]

    def _rule(self, messages: Sequence[Mapping[str, Any]]) -> Rule | None:
        if not messages or messages[-1].get("role") != "user":
            return None
        text = text_of(messages[-1])
        return next((rule for rule in self.script.rule if re.search(rule.when, text)), None)

    def _fault(self, run: str, place: str, answer: Answer) -> Fault | None:
        """The fault that this attempt meets: the first of the list that has not happened often enough."""
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


def first_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the first user message, "" where there is none."""
    return next((text_of(message) for message in messages if message.get("role") == "user"), "")


def text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def no_script(request: ModelRequest, names: Sequence[str]) -> ApiError:
    start = " ".join(first_user_text(request.messages).split())[:80]
    return ApiError(
        400,
        f"the model is scripted and no script matches a conversation that begins {start!r}; "
        f"scripts: {', '.join(names) or 'none'}",
        code="no_script",
    )


def _digest(messages: Sequence[Mapping[str, Any]]) -> str:
    """Eight hex digits that differ from call to call within a conversation."""
    return hashlib.sha256(f"{len(messages)} {text_of(messages[-1])}".encode(errors="replace")).hexdigest()[:8]
