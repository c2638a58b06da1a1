"""The scripted model refuses what DeepSeek's API refuses (docs/contract.md, Requests)."""

from __future__ import annotations

from typing import Any

import pytest

from runner.scripted import ScriptUpstream
from tests.runner.relay_helpers import TOOLS, ask, script

USER = {"role": "user", "content": "say hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "shell_command", "arguments": "{}"}}
CALLER = {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "ok"}
IMAGE = [
    {"type": "text", "text": "say hello"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
]


def changed(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {name: value for name, value in {**message, **fields}.items() if value is not ...}


def with_arguments(arguments: str) -> dict[str, Any]:
    return changed(
        CALLER, tool_calls=[{**CALL, "function": {"name": "shell_command", "arguments": arguments}}]
    )


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no messages": (ask(messages=[]), 400, "Empty input messages"),
    "no model": ({"messages": [USER]}, 400, "missing field `model`"),
    "unknown role": (
        ask(messages=[{"role": "developer", "content": "x"}]),
        400,
        "unknown variant `developer`",
    ),
    "no content": (ask(messages=[{"role": "user"}]), 400, "missing field `content`"),
    "content null": (ask(messages=[USER, changed(CALLER, content=None), RESULT]), 400, "invalid type: null"),
    "content array": (ask(messages=[{"role": "user", "content": IMAGE}]), 400, "invalid type: sequence"),
    "flash tool array": (
        ask(model="deepseek-flash", messages=[USER, CALLER, {**RESULT, "content": IMAGE}]),
        400,
        "invalid type: sequence",
    ),
    "call without result": (ask(messages=[USER, CALLER, USER]), 400, "insufficient tool messages"),
    "no result at the end": (ask(messages=[USER, CALLER]), 400, "insufficient tool messages"),
    "result without call": (ask(messages=[USER, RESULT]), 400, "must be a response to a preceding message"),
    "two results of a call": (ask(messages=[USER, CALLER, RESULT, RESULT]), 400, "must be a response to"),
    "repeated call id": (
        ask(messages=[USER, changed(CALLER, tool_calls=[CALL, CALL]), RESULT, RESULT]),
        400,
        "Duplicate value for 'tool_call_id'",
    ),
    "broken arguments": (ask(messages=[USER, with_arguments('{"a'), RESULT]), 400, "function.arguments"),
    "arguments no object": (ask(messages=[USER, with_arguments("[1]"), RESULT]), 400, "function.arguments"),
    "reasoning left out": (
        ask(messages=[USER, changed(CALLER, reasoning_content=...), RESULT], tools=TOOLS),
        400,
        "`reasoning_content` in the thinking mode must be passed back",
    ),
    "tool_choice while thinking": (ask(tools=TOOLS, tool_choice="required"), 400, "tool_choice"),
    "assistant last": (ask(messages=[USER, changed(CALLER, tool_calls=...)]), 400, "The last message"),
    "max_tokens too large": (ask(max_tokens=393_217), 400, "valid range of max_tokens is [1, 393216]"),
    "max_tokens zero": (ask(max_tokens=0), 400, "valid range of max_tokens"),
    "thinking unknown": (ask(thinking={"type": "on"}), 400, "unknown variant `on`"),
    "effort unknown": (ask(reasoning_effort="huge"), 400, "unknown variant `huge`"),
    "tool without function": (ask(tools=[{"type": "function"}]), 400, "missing field `function`"),
    "stream_options alone": (ask(stream_options={"include_usage": True}), 400, "stream_options"),
    "stream_options no object": (ask(stream=True, stream_options=3), 400, "stream_options: invalid type"),
    "temperature": (ask(temperature=3), 422, "Invalid temperature value"),
}

ACCEPTED: dict[str, dict[str, Any]] = {
    "a complete exchange": ask(messages=[USER, CALLER, RESULT], tools=TOOLS),
    "no tools, no reasoning": ask(
        messages=[USER, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
    ),
    "no thinking, no reasoning": ask(
        messages=[USER, changed(CALLER, reasoning_content=...), RESULT],
        tools=TOOLS,
        thinking={"type": "disabled"},
    ),
    "tool_choice auto": ask(tools=TOOLS, tool_choice="auto"),
    "tool_choice without thinking": ask(tools=TOOLS, tool_choice="required", thinking={"type": "disabled"}),
    "flash takes images": ask(model="deepseek-flash", messages=[{"role": "user", "content": IMAGE}]),
    "everything set": ask(
        tools=TOOLS, max_tokens=393_216, thinking={"type": "enabled"}, reasoning_effort="max", temperature=0
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_invalid_request_is_refused(name: str, serve: Any) -> None:
    body, status, words = REFUSED[name]
    served = await serve(script())
    response = await served.post(body)
    assert response.status_code == status
    error = response.json()["error"]
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}
    assert served.usage.errors == 1 and served.usage.calls == 0 and served.usage.cost_usd == 0


@pytest.mark.parametrize("name", ACCEPTED)
async def test_valid_request_is_accepted(name: str, serve: Any) -> None:
    served = await serve(script(closing="hello"))
    response = await served.post(ACCEPTED[name])
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "hello"


async def test_lone_surrogate_is_refused(serve: Any) -> None:
    served = await serve(script())
    for text, status in (("\\ud83d", 400), ("\\ud83d\\ude00", 200)):
        body = b'{"model": "m", "messages": [{"role": "user", "content": "%s"}]}' % text.encode()
        assert (await served.post(body)).status_code == status


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"model": "a", "model": "b", "messages": []}'])
async def test_invalid_body_is_refused(body: bytes, serve: Any) -> None:
    served = await serve(script())
    response = await served.post(body)
    assert response.status_code == 400
    assert "Failed to parse the request body as JSON" in response.json()["error"]["message"]


async def test_context_overflow_counts_the_completion(serve: Any) -> None:
    served = await serve(ScriptUpstream(script(closing="hello"), context_window=1_000))
    text = "word " * 500
    fits = await served.post(ask(text))
    prompt = fits.json()["usage"]["prompt_tokens"]
    assert (await served.post(ask(text, max_tokens=1_000 - prompt))).status_code == 200
    over = await served.post(ask(text, max_tokens=1_001 - prompt))
    assert over.status_code == 400
    assert over.json()["error"]["message"] == (
        "This model's maximum context length is 1000 tokens. However, you requested 1001 tokens "
        f"({prompt} in the messages, {1_001 - prompt} in the completion). "
        "Please reduce the length of the messages or completion."
    )
    alone = await served.post(ask("word " * 2_000))
    assert alone.status_code == 400 and "maximum context length" in alone.json()["error"]["message"]


async def test_unknown_model_is_refused(serve: Any) -> None:
    served = await serve(ScriptUpstream(script(), models=["deepseek-v4-pro"]))
    response = await served.post(ask(model="deepseek-v9"))
    assert (response.status_code, response.json()["error"]["message"]) == (400, "Model Not Exist")
