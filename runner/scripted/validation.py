"""The refusals of DeepSeek's API: a scripted model that took a broken request would hide a bug.

Rules from contracts.md 5 and the API's documents; messages as the API words them where they are known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runner.relay.prices import ModelCard
from runner.relay.wire import ApiError

ROLES = ("system", "user", "assistant", "tool")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
# A parameter out of its range is the API's 422 ("invalid parameters"); a body of wrong types is a 400.
_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}

Payload = Mapping[str, Any]


def thinking_enabled(payload: Payload) -> bool:
    """Thinking is on unless the request turns it off."""
    thinking = payload.get("thinking")
    return not (isinstance(thinking, dict) and thinking.get("type") == "disabled")


def check_request(payload: Payload, card: ModelCard) -> None:
    """Everything but the length. Raises ApiError 400 or 422."""
    _check_shape(payload)
    messages: Sequence[Payload] = payload["messages"]
    for index, message in enumerate(messages):
        _check_message(index, message, card)
    _check_tools(payload)
    _check_parameters(payload, card)
    _check_pairing(messages)
    thinking = thinking_enabled(payload)
    if thinking and payload.get("tools"):
        for message in messages:
            if message["role"] == "assistant" and not isinstance(message.get("reasoning_content"), str):
                raise _bad("The `reasoning_content` in the thinking mode must be passed back to the API.")
    choice = payload.get("tool_choice")
    if thinking and choice is not None and choice not in ("auto", "none"):
        raise _bad("Thinking mode does not support this tool_choice")
    last = messages[-1]
    if last["role"] == "assistant" and not last.get("prefix"):
        raise _bad(
            "The last message must be a user or tool message, or an assistant message with prefix mode on"
        )


def check_length(payload: Payload, card: ModelCard, prompt_tokens: int) -> int:
    """The output budget of a request in tokens. Raises ApiError 400 where prompt and output do not fit."""
    asked = payload.get("max_tokens")
    room = card.context_window - prompt_tokens
    if asked is None:
        if room > 0:
            return min(card.max_output_tokens, room)
        asked = 1
    if asked > room:
        raise _bad(
            f"This model's maximum context length is {card.context_window} tokens. However, you requested "
            f"{prompt_tokens + asked} tokens ({prompt_tokens} in the messages, {asked} in the completion). "
            "Please reduce the length of the messages or completion."
        )
    return asked


def _bad(message: str) -> ApiError:
    return ApiError(400, message)


def _misfit(where: str, what: str) -> ApiError:
    at = f"{where}: " if where else ""
    return _bad(f"Failed to deserialize the JSON body into the target type: {at}{what}")


def _kind(value: Any) -> str:
    """A JSON value's type in the words of the API's parser."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, (int, float)):
        return f"number `{value}`"
    return {str: "string", list: "sequence", dict: "map"}[type(value)]


def _check_shape(payload: Payload) -> None:
    for name in ("model", "messages"):
        if name not in payload:
            raise _misfit("", f"missing field `{name}`")
    if not isinstance(payload["model"], str):
        raise _misfit("model", f"invalid type: {_kind(payload['model'])}, expected a string")
    if not isinstance(payload["messages"], list):
        raise _misfit("messages", f"invalid type: {_kind(payload['messages'])}, expected a sequence")
    if not payload["messages"]:
        raise _bad("Empty input messages")


def _check_message(index: int, message: Any, card: ModelCard) -> None:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise _misfit(where, f"invalid type: {_kind(message)}, expected a message")
    if "role" not in message:
        raise _misfit(where, "missing field `role`")
    role = message["role"]
    if role not in ROLES:
        expected = ", ".join(f"`{name}`" for name in ROLES)
        raise _misfit(f"{where}.role", f"unknown variant `{role}`, expected one of {expected}")
    if "content" not in message:
        raise _misfit(where, "missing field `content`")
    _check_content(f"{where}.content", message["content"], vision=card.vision and role == "user")
    reasoning = message.get("reasoning_content", "")
    if not isinstance(reasoning, str):
        raise _misfit(f"{where}.reasoning_content", f"invalid type: {_kind(reasoning)}, expected a string")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise _misfit(where, "missing field `tool_call_id`")
    calls = message.get("tool_calls")
    if role == "assistant" and calls is not None:
        _check_calls(f"{where}.tool_calls", calls)


def _check_content(where: str, content: Any, *, vision: bool) -> None:
    if isinstance(content, str):
        return
    if not (vision and isinstance(content, list)):
        raise _misfit(where, f"invalid type: {_kind(content)}, expected a string")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "image_url"):
            raise _misfit(where, f"unknown variant `{kind}`, expected one of `text`, `image_url`")


def _check_calls(where: str, calls: Any) -> None:
    if not isinstance(calls, list) or not calls:
        raise _misfit(where, "expected a sequence of at least one tool call")
    for index, call in enumerate(calls):
        at = f"{where}[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if (
            not isinstance(call, dict)
            or not isinstance(call.get("id"), str)
            or call.get("type") != "function"
        ):
            raise _misfit(at, 'expected `id`, `type` "function" and `function`')
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _misfit(f"{at}.function", "missing field `name`")
        arguments = function.get("arguments")
        try:
            valid = isinstance(arguments, str) and isinstance(json.loads(arguments), dict)
        except (ValueError, RecursionError):
            valid = False
        if not valid:
            raise _bad(f"Invalid '{at}.function.arguments': expected the text of a valid JSON object")


def _check_tools(payload: Payload) -> None:
    tools = payload.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        raise _misfit("tools", f"invalid type: {_kind(tools)}, expected a sequence")
    if len(tools) > 128:
        raise _bad(f"Invalid 'tools': at most 128 functions are supported, got {len(tools)}")
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            raise _misfit(f"tools[{index}]", "missing field `function`")
        if tool.get("type") != "function":
            raise _misfit(
                f"tools[{index}].type", f"unknown variant `{tool.get('type')}`, expected `function`"
            )
        if not isinstance(function.get("name"), str):
            raise _misfit(f"tools[{index}].function", "missing field `name`")


def _check_parameters(payload: Payload, card: ModelCard) -> None:
    limit = payload.get("max_tokens")
    if limit is not None and (
        isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= card.max_output_tokens
    ):
        raise _bad(
            f"Invalid max_tokens value, the valid range of max_tokens is [1, {card.max_output_tokens}]"
        )
    thinking = payload.get("thinking")
    if thinking is not None:
        kind = thinking.get("type") if isinstance(thinking, dict) else None
        if kind not in ("enabled", "disabled"):
            raise _misfit("thinking.type", f"unknown variant `{kind}`, expected `enabled` or `disabled`")
    effort = payload.get("reasoning_effort")
    if effort is not None and effort not in _EFFORTS:
        expected = ", ".join(f"`{name}`" for name in _EFFORTS)
        raise _misfit("reasoning_effort", f"unknown variant `{effort}`, expected one of {expected}")
    if payload.get("stream_options") is not None and payload.get("stream") is not True:
        raise _bad("stream_options should be set along with stream = true")
    for name, (low, high) in _RANGES.items():
        value = payload.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ApiError(422, f"Invalid {name} value, the valid range of {name} is [{low:g}, {high:g}]")


def _check_pairing(messages: Sequence[Payload]) -> None:
    open_ids: list[str] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_ids:
                raise _bad(
                    f"messages[{index}]: Messages with role 'tool' must be a response to a preceding message "
                    "with 'tool_calls'"
                )
            open_ids.remove(message["tool_call_id"])
            continue
        if open_ids:
            raise _unanswered()
        if message["role"] == "assistant":
            open_ids = [call["id"] for call in message.get("tool_calls") or ()]
            if len(set(open_ids)) != len(open_ids):
                raise _bad(f"messages[{index}]: Duplicate value for 'tool_call_id'")
    if open_ids:
        raise _unanswered()


def _unanswered() -> ApiError:
    return _bad(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
        "'tool_call_id'. (insufficient tool messages following tool_calls message)"
    )
