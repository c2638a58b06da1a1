"""The refusals of DeepSeek's API. A scripted model that accepted a broken request would hide a bug.

The rules are those of docs/contract.md, Requests, and of the API's documentation. The messages are
the API's own where they are known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from runner.json_values import JsonObject, as_object, is_list, is_object, objects_in
from runner.relay.profiles import ModelProfile
from runner.relay.wire import ApiError

ROLES = ("system", "user", "assistant", "tool")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
# The API answers 422 to a parameter out of its range, and 400 to a body with wrong types.
_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}


def thinking_enabled(payload: JsonObject) -> bool:
    """Return whether the model thinks, which it does unless the request disables it."""
    return as_object(payload.get("thinking")).get("type") != "disabled"


def check_request(payload: JsonObject, profile: ModelProfile) -> None:
    """Check everything but the length. Raises ApiError 400 or 422."""
    messages = [
        _checked_message(index, message, profile) for index, message in enumerate(_checked_messages(payload))
    ]
    _check_tools(payload)
    _check_parameters(payload, profile)
    _check_pairing(messages)
    thinking = thinking_enabled(payload)
    if thinking and payload.get("tools"):
        for message in messages:
            if message["role"] == "assistant" and not isinstance(message.get("reasoning_content"), str):
                raise _bad_request(
                    "The `reasoning_content` in the thinking mode must be passed back to the API."
                )
    choice = payload.get("tool_choice")
    if thinking and choice is not None and choice not in ("auto", "none"):
        raise _bad_request("Thinking mode does not support this tool_choice")
    last = messages[-1]
    if last["role"] == "assistant" and not last.get("prefix"):
        raise _bad_request(
            "The last message must be a user or tool message, or an assistant message with prefix mode on"
        )


def check_length(payload: JsonObject, profile: ModelProfile, prompt_tokens: int) -> int:
    """Return the most tokens that the answer may have. Raises ApiError 400 if they do not fit.

    `check_request` must have passed.
    """
    asked = payload.get("max_tokens")
    room = profile.context_window - prompt_tokens
    if not isinstance(asked, int):
        if room > 0:
            return min(profile.max_output_tokens, room)
        asked = 1
    if asked > room:
        raise _bad_request(
            f"This model's maximum context length is {profile.context_window} tokens. However, you requested "
            f"{prompt_tokens + asked} tokens ({prompt_tokens} in the messages, {asked} in the completion). "
            "Please reduce the length of the messages or completion."
        )
    return asked


def _bad_request(message: str) -> ApiError:
    return ApiError(400, message)


def _wrong_type(where: str, problem: str) -> ApiError:
    at = f"{where}: " if where else ""
    return _bad_request(f"Failed to deserialize the JSON body into the target type: {at}{problem}")


def _type_name(value: object) -> str:
    """Return the type of a JSON value as the API's parser names it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"number `{value}`"
    if isinstance(value, str):
        return "string"
    return "sequence" if is_list(value) else "map"


def _checked_messages(payload: JsonObject) -> list[object]:
    for name in ("model", "messages"):
        if name not in payload:
            raise _wrong_type("", f"missing field `{name}`")
    model, messages = payload["model"], payload["messages"]
    if not isinstance(model, str):
        raise _wrong_type("model", f"invalid type: {_type_name(model)}, expected a string")
    if not is_list(messages):
        raise _wrong_type("messages", f"invalid type: {_type_name(messages)}, expected a sequence")
    if not messages:
        raise _bad_request("Empty input messages")
    return messages


def _checked_message(index: int, message: object, profile: ModelProfile) -> JsonObject:
    where = f"messages[{index}]"
    if not is_object(message):
        raise _wrong_type(where, f"invalid type: {_type_name(message)}, expected a message")
    if "role" not in message:
        raise _wrong_type(where, "missing field `role`")
    role = message["role"]
    if role not in ROLES:
        expected = ", ".join(f"`{name}`" for name in ROLES)
        raise _wrong_type(f"{where}.role", f"unknown variant `{role}`, expected one of {expected}")
    if "content" not in message:
        raise _wrong_type(where, "missing field `content`")
    _check_content(f"{where}.content", message["content"], vision=profile.vision and role == "user")
    reasoning = message.get("reasoning_content", "")
    if not isinstance(reasoning, str):
        problem = f"invalid type: {_type_name(reasoning)}, expected a string"
        raise _wrong_type(f"{where}.reasoning_content", problem)
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise _wrong_type(where, "missing field `tool_call_id`")
    calls = message.get("tool_calls")
    if role == "assistant" and calls is not None:
        _check_calls(f"{where}.tool_calls", calls)
    return message


def _check_content(where: str, content: object, *, vision: bool) -> None:
    if isinstance(content, str):
        return
    if not (vision and is_list(content)):
        raise _wrong_type(where, f"invalid type: {_type_name(content)}, expected a string")
    for part in content:
        kind = as_object(part).get("type")
        if kind not in ("text", "image_url"):
            raise _wrong_type(where, f"unknown variant `{kind}`, expected one of `text`, `image_url`")


def _check_calls(where: str, calls: object) -> None:
    if not is_list(calls) or not calls:
        raise _wrong_type(where, "expected a sequence of at least one tool call")
    for index, call in enumerate(calls):
        at = f"{where}[{index}]"
        if not is_object(call) or not isinstance(call.get("id"), str) or call.get("type") != "function":
            raise _wrong_type(at, 'expected `id`, `type` "function" and `function`')
        function = as_object(call.get("function"))
        if not isinstance(function.get("name"), str):
            raise _wrong_type(f"{at}.function", "missing field `name`")
        arguments = function.get("arguments")
        try:
            valid = isinstance(arguments, str) and is_object(json.loads(arguments))
        except (ValueError, RecursionError):
            valid = False
        if not valid:
            raise _bad_request(f"Invalid '{at}.function.arguments': expected the text of a valid JSON object")


def _check_tools(payload: JsonObject) -> None:
    tools = payload.get("tools")
    if tools is None:
        return
    if not is_list(tools):
        raise _wrong_type("tools", f"invalid type: {_type_name(tools)}, expected a sequence")
    if len(tools) > 128:
        raise _bad_request(f"Invalid 'tools': at most 128 functions are supported, got {len(tools)}")
    for index, item in enumerate(tools):
        tool = as_object(item)
        function = tool.get("function")
        if not is_object(function):
            raise _wrong_type(f"tools[{index}]", "missing field `function`")
        if tool.get("type") != "function":
            problem = f"unknown variant `{tool.get('type')}`, expected `function`"
            raise _wrong_type(f"tools[{index}].type", problem)
        if not isinstance(function.get("name"), str):
            raise _wrong_type(f"tools[{index}].function", "missing field `name`")


def _check_parameters(payload: JsonObject, profile: ModelProfile) -> None:
    limit = payload.get("max_tokens")
    if limit is not None and (
        isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= profile.max_output_tokens
    ):
        raise _bad_request(
            f"Invalid max_tokens value, the valid range of max_tokens is [1, {profile.max_output_tokens}]"
        )
    thinking = payload.get("thinking")
    if thinking is not None:
        kind = as_object(thinking).get("type")
        if kind not in ("enabled", "disabled"):
            raise _wrong_type("thinking.type", f"unknown variant `{kind}`, expected `enabled` or `disabled`")
    effort = payload.get("reasoning_effort")
    if effort is not None and effort not in _EFFORTS:
        expected = ", ".join(f"`{name}`" for name in _EFFORTS)
        raise _wrong_type("reasoning_effort", f"unknown variant `{effort}`, expected one of {expected}")
    options = payload.get("stream_options")
    if options is not None and not is_object(options):
        raise _wrong_type("stream_options", f"invalid type: {_type_name(options)}, expected a map")
    if options is not None and payload.get("stream") is not True:
        raise _bad_request("stream_options should be set along with stream = true")
    for name, (low, high) in _RANGES.items():
        value = payload.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ApiError(422, f"Invalid {name} value, the valid range of {name} is [{low:g}, {high:g}]")


def _check_pairing(messages: Sequence[JsonObject]) -> None:
    """Check that every tool call is answered once, before a message of another role."""
    open_ids: list[object] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_ids:
                raise _bad_request(
                    f"messages[{index}]: Messages with role 'tool' must be a response to a preceding message "
                    "with 'tool_calls'"
                )
            open_ids.remove(message["tool_call_id"])
            continue
        if open_ids:
            raise _unanswered_calls()
        if message["role"] == "assistant":
            open_ids = [call["id"] for call in objects_in(message.get("tool_calls"))]
            if len(set(open_ids)) != len(open_ids):
                raise _bad_request(f"messages[{index}]: Duplicate value for 'tool_call_id'")
    if open_ids:
        raise _unanswered_calls()


def _unanswered_calls() -> ApiError:
    return _bad_request(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
        "'tool_call_id'. (insufficient tool messages following tool_calls message)"
    )
