"""Playing scripts: the position in the conversation, streams, faults and script files."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from runner.relay import ApiError, ModelRequest, Relay
from runner.scripted import Reply, ReplyCall, ScriptError, ScriptUpstream, load_script, load_scripts
from tests.runner.relay_helpers import MODEL, TOOLS, ask, events, joined, script, streamed

TWO_TURNS = {
    "match": "hello",
    "turn": [
        {
            "reasoning": "The user wants a greeting — 先看看。",
            "content": "I look first.",
            "tool_calls": [
                {"name": "shell_command", "arguments": {"command": "ls -la"}},
                {"name": "read_file", "arguments": '{"file_path": '},
            ],
        },
        {"content": "It is done."},
    ],
}


def results(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in message["tool_calls"]]


def repaired(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message with its broken arguments replaced, as a client must send it back."""
    calls = [{**call, "function": {**call["function"], "arguments": "{}"}} for call in message["tool_calls"]]
    return {**message, "tool_calls": calls}


async def test_stream_and_json_body_agree(serve: Any) -> None:
    served = await serve(script(**TWO_TURNS))
    whole = (await served.post(ask(tools=TOOLS))).json()
    response = await served.post(streamed(tools=TOOLS))
    documents = events(response.text)
    assert documents[0]["choices"][0]["delta"] == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "",
    }
    assert documents[-1]["choices"] == [] and all(d["usage"] is None for d in documents[:-1])
    assert {d["object"] for d in documents} == {"chat.completion.chunk"}
    assert {d["model"] for d in documents} == {MODEL}
    got = joined(documents)
    assert got["message"] == whole["choices"][0]["message"]
    assert got["message"]["reasoning_content"] == TWO_TURNS["turn"][0]["reasoning"]
    assert got["message"]["tool_calls"][1]["function"]["arguments"] == '{"file_path": '
    assert got["finish"] == whole["choices"][0]["finish_reason"] == "tool_calls"
    assert got["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] > 20
    assert response.headers["x-capstan-model"] == "scripted"
    assert served.relay.scripted and "not a real one" in served.relay.describe()


async def test_usage_is_sent_only_if_requested(serve: Any) -> None:
    served = await serve(script(**TWO_TURNS))
    assert '"usage"' not in (await served.post(ask(stream=True))).text


async def test_position_comes_from_the_conversation(serve: Any) -> None:
    served = await serve(script(**TWO_TURNS))
    first = (await served.post(ask(tools=TOOLS))).json()["choices"][0]["message"]
    user = {"role": "user", "content": "say hello"}
    history = [user, repaired(first), *results(first)]
    for _ in range(2):  # a repeated request gets the same answer
        second = (await served.post(ask(messages=history, tools=TOOLS))).json()["choices"][0]
        assert (second["message"]["content"], second["finish_reason"]) == ("It is done.", "stop")
    history += [second["message"], {"role": "user", "content": "are you sure?"}]
    third = (await served.post(ask(messages=history, tools=TOOLS))).json()["choices"][0]["message"]
    assert third["content"] == "The task is complete."


async def test_position_survives_a_summary_of_older_messages(serve: Any) -> None:
    turns = [{"tool_calls": [{"name": "t", "arguments": {"n": n}}]} for n in range(5)]
    served = await serve(script(turn=turns))
    user = {"role": "user", "content": "go"}
    messages: list[dict[str, Any]] = [user]
    for _ in range(3):
        message = (await served.post(ask(messages=messages, tools=TOOLS))).json()["choices"][0]["message"]
        messages += [message, *results(message)]
    summarised = [user, {"role": "user", "content": "summary of before"}, *messages[-2:]]
    message = (await served.post(ask(messages=summarised, tools=TOOLS))).json()["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == '{"n": 3}'


async def test_rule_answers_a_summary_request_and_is_not_a_turn(serve: Any) -> None:
    served = await serve(
        script(turn=TWO_TURNS["turn"], rule=[{"when": "(?i)summari[sz]e", "content": "SUMMARY"}])
    )
    user = {"role": "user", "content": "say hello"}
    asks = {"role": "user", "content": "Summarize the work so far."}
    summary = (await served.post(ask(messages=[user, asks]))).json()["choices"][0]["message"]
    assert summary["content"] == "SUMMARY"
    again = (await served.post(ask(messages=[user, asks, summary, user]))).json()["choices"][0]["message"]
    assert again["content"] == "I look first."


async def test_many_scripts_on_one_server(serve: Any) -> None:
    upstream = ScriptUpstream(
        [
            script(name="any", closing="any"),
            script(name="a", match="alpha", closing="A"),
            script(name="b", match_regex="b[e]ta", closing="B"),
        ]
    )
    served = await serve(upstream)
    texts = ["do alpha", "do beta", "something else"] * 5
    responses = await asyncio.gather(*(served.post(ask(text)) for text in texts))
    assert [a.json()["choices"][0]["message"]["content"] for a in responses] == ["A", "B", "any"] * 5


async def test_no_script_matches(serve: Any) -> None:
    served = await serve(script(name="greeting", match="hello"))
    response = await served.post(ask("other things"))
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "the model is scripted and no script matches a conversation that begins 'other things'; "
        "scripts: greeting"
    )


async def test_python_script(serve: Any) -> None:
    class Echo:
        name = "echo"

        def matches(self, request: ModelRequest) -> bool:
            return True

        async def respond(self, request: ModelRequest) -> Reply:
            if len(request.messages) > 3:
                raise ApiError(503, "busy", retry_after=1)
            return Reply(content=str(len(request.messages)), tool_calls=(ReplyCall("x_1", "t", "{}"),))

    served = await serve(ScriptUpstream(Echo()))
    message = (await served.post(ask())).json()["choices"][0]["message"]
    assert message["content"] == "1" and message["tool_calls"][0]["id"] == "x_1"
    user = {"role": "user", "content": "x"}
    assert (await served.post(ask(messages=[user] * 4))).status_code == 503


async def test_thinking_switched_off_gives_no_reasoning(serve: Any) -> None:
    served = await serve(script(**TWO_TURNS))
    message = (await served.post(ask(thinking={"type": "disabled"}))).json()["choices"][0]["message"]
    assert "reasoning_content" not in message and message["content"] == "I look first."


@pytest.mark.parametrize("limit", [1, 5, 12, 25, 40])
async def test_max_tokens_cuts_the_answer(limit: int, serve: Any) -> None:
    served = await serve(script(**TWO_TURNS))
    body = (await served.post(ask(max_tokens=limit))).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] <= limit


# --- faults ---


async def test_status_faults_happen_in_order_then_pass_for_each_run(serve: Any) -> None:
    faults = [{"status": 429, "retry_after": 2}, {"status": 503, "times": 2}, {"status": 400, "body": "{}"}]
    served = await serve(script(turn=[{"content": "through", "faults": faults}]))
    other = served.relay.open_run("other")
    statuses: list[int] = []
    for _ in range(5):
        response = await served.post(streamed())
        statuses.append(response.status_code)
        if response.status_code == 429:
            assert response.headers["retry-after"] == "2"
    assert statuses == [429, 503, 503, 400, 200]
    first = await served.post(ask(), headers={"authorization": f"Bearer {other.token}"})
    assert first.status_code == 429
    assert (served.usage.calls, served.usage.errors) == (1, 4)


@pytest.mark.parametrize("status", [401, 402, 404, 422, 500, 502, 503, 504])
async def test_every_status(status: int, serve: Any) -> None:
    served = await serve(script(turn=[{"faults": [{"status": status, "times": 0}]}]))
    response = await served.post(ask())
    assert response.status_code == status and response.json()["error"]["message"]


async def test_dropped_stream(serve: Any) -> None:
    turn = {"content": "x" * 200, "faults": [{"drop_after": 3}]}
    served = await serve(script(turn=[turn]))
    got = b""
    with pytest.raises(httpx.RemoteProtocolError):
        async with served.client.stream("POST", "/chat/completions", json=streamed()) as response:
            async for chunk in response.aiter_bytes():
                got += chunk
    assert got.count(b"data: ") == 3
    usage = served.usage
    assert usage.errors == 1 and usage.estimated and usage.completion_tokens > 0 and usage.cost_usd > 0
    assert (await served.post(streamed())).status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        await (await serve(script(turn=[turn]))).post(ask())


async def test_silent_stream(serve: Any) -> None:
    turn = {"content": "hello", "faults": [{"silence_after": 2, "silence_sec": 60}]}
    served = await serve(script(turn=[turn]))
    with pytest.raises(httpx.ReadTimeout):
        await served.post(streamed(), timeout=0.3)
    assert "hello" in (await served.post(streamed())).text


@pytest.mark.parametrize(("kind", "text"), [("body", ""), ("done", "data: [DONE]\n\n")])
async def test_empty_200(kind: str, text: str, serve: Any) -> None:
    served = await serve(script(turn=[{"content": "hello", "faults": [{"empty": kind}]}]))
    response = await served.post(streamed())
    assert (response.status_code, response.text) == (200, text)


async def test_empty_answer(serve: Any) -> None:
    served = await serve(script(turn=[{"content": "hello", "faults": [{"empty": "answer"}]}]))
    got = joined(events((await served.post(streamed())).text))
    assert got["message"]["content"] == "" and got["finish"] == "stop"


async def test_keep_alive_comments_and_delay(serve: Any) -> None:
    served = await serve(script(turn=[{"content": "hello", "keep_alive": 3, "delay_sec": 0.2}]))
    start = time.monotonic()
    text = (await served.post(streamed())).text
    assert text.startswith(": keep-alive\n\n" * 3 + "data: ")
    assert time.monotonic() - start >= 0.2
    assert (await served.post(ask())).json()["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize("reason", ["insufficient_system_resource", "content_filter", "length"])
async def test_finish_reasons(reason: str, serve: Any) -> None:
    call = {"name": "shell_command", "arguments": '{"command": "ls'}
    served = await serve(script(turn=[{"tool_calls": [call], "finish_reason": reason}]))
    got = joined(events((await served.post(streamed())).text))
    assert got["finish"] == reason
    assert got["message"]["tool_calls"][0]["function"]["arguments"] == '{"command": "ls'


async def test_usage_left_out_or_replaced(serve: Any) -> None:
    turns = [{"content": "a", "usage": False}, {"content": "b", "usage": {"prompt_tokens": 9000}}]
    served = await serve(script(turn=turns))
    assert '"usage"' not in (await served.post(streamed())).text
    assert served.usage.estimated
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}]
    history.append({"role": "user", "content": "y"})
    usage = (await served.post(ask(messages=history))).json()["usage"]
    assert (
        usage["prompt_tokens"] == 9000 == usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"]
    )
    assert usage["total_tokens"] == 9000 + usage["completion_tokens"]


# --- files ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("turn = 3", "turn"),
        ("[[turn]]\nthought = 'x'", "turn.0.thought"),
        ("[[turn]]\nfaults = [{}]", "set exactly one of status"),
        ("[[rule]]\nwhen = '('", "not a regular expression"),
        ("[[turn", "TOML"),
    ],
)
def test_invalid_script_file_names_the_place(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ScriptError) as caught:
        load_script(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert words in message or words == "TOML"


def test_folder_without_scripts(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="no script files"):
        load_scripts(tmp_path)


def test_example_in_the_docs_loads(tmp_path: Path) -> None:
    manual = Path("docs/scripts.md").read_text(encoding="utf-8")
    example = manual.split("```toml\n", 1)[1].split("```", 1)[0]
    path = tmp_path / "example.toml"
    path.write_text(example, encoding="utf-8")
    assert len(load_script(path).turn) >= 3


async def test_open_run_needs_a_running_relay() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        Relay(ScriptUpstream(script())).open_run("early")
