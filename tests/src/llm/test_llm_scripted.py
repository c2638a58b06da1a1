"""The client with the scripted model behind the relay, which speaks DeepSeek's protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llm_wire import TRANSPORTS, WordCounter

from runner.relay import Relay
from runner.scripted import ScriptFile, ScriptUpstream
from src.config import load_settings
from src.llm import (
    ContextOverflow,
    CostLimitReached,
    DeepSeekClient,
    FatalModelError,
    HistoryRefused,
    ModelUnavailable,
)
from src.llm.messages import Conversation, canonical_json, system, tool, user
from src.tools.arguments import parse_arguments

TOOLS = canonical_json([{"type": "function", "function": {"name": "sh", "parameters": {"type": "object"}}}])


class Broken(Conversation):
    """A conversation that violates the API's rules, as only a bug could send it."""

    def __init__(self, messages: Any, *, without: bytes) -> None:
        super().__init__(messages)
        self._without = without

    def wire(self) -> bytes:
        return super().wire().replace(self._without, b"")


class Bench:
    """A relay with scripted turns, and a client of it."""

    def __init__(self, transport: str, turns: list[dict[str, Any]], relay_limit: float | None, **given: Any):
        window = given.pop("context_window_of_server", None)
        script = ScriptFile.model_validate({"name": "test", "turn": turns})
        self._relay = Relay(ScriptUpstream(script, context_window=window))
        self._relay_limit = relay_limit
        self._transport = transport
        self._given = {"max_retries": 2, "stream_idle_sec": 0.3, **given}
        self.history = Conversation([system("You are a test."), user("say hello " + "again " * 300)])
        self.waits: list[float] = []

    async def __aenter__(self) -> Bench:
        await self._relay.__aenter__()
        self.account = self._relay.open_run("test", cost_limit_usd=self._relay_limit)
        env = {"DEEPSEEK_API_KEY": self.account.token, "DEEPSEEK_BASE_URL": self.account.base_url + "/v1"}
        if "token" in self._given:
            env["DEEPSEEK_API_KEY"] = self._given.pop("token")
        settings = load_settings(env, None, {}, None, self._given)
        self.client = DeepSeekClient(
            settings,
            WordCounter(),
            parse_arguments=parse_arguments,
            transport=TRANSPORTS[self._transport](settings),
            sleep=self._sleep,
        )
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.client.aclose()
        await self._relay.__aexit__(None, None, None)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def ask(self, **options: Any) -> Any:
        call = self.client.complete(self.history, **{"tools_wire": TOOLS, "prompt_tokens": 400, **options})
        return await asyncio.wait_for(call, 20)

    @property
    def usage(self) -> Any:
        return self._relay.usage(self.account.token)


def bench(transport: str, *turns: dict[str, Any], relay_limit: float | None = None, **given: Any) -> Bench:
    return Bench(transport, list(turns), relay_limit, **given)


CALL = {"name": "sh", "arguments": {"command": "ls"}}


async def test_three_steps_hit_the_cache_and_agree_on_the_bill(transport: str) -> None:
    turns = [
        {"reasoning": "look first", "tool_calls": [CALL, {"name": "sh", "arguments": '{"command": "oops'}]},
        {"reasoning": "now go on", "content": "one more", "tool_calls": [CALL], "keep_alive": 3},
        {"content": "done"},
    ]
    async with bench(transport, *turns) as run:
        hits: list[float] = []
        for _ in turns:
            completion = await run.ask()
            run.history.append(completion.message)
            for call in completion.message.tool_calls:
                run.history.append(tool(call.id, call.problem or "ok"))
            hits.append(completion.usage.cache_hit_tokens / completion.usage.prompt_tokens)
        assert hits[0] == 0 and min(hits[1:]) > 0.75
        broken = run.history[2].tool_calls[1]
        assert broken.problem is not None and broken.arguments == "{}"
        assert run.history[-1].content == "done"
        spent = run.client.spent
        assert spent.cost_usd == pytest.approx(run.usage.cost_usd)
        assert spent.usage.prompt_tokens == run.usage.prompt_tokens
        assert spent.usage.reasoning_tokens == run.usage.reasoning_tokens > 0


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "retry_after": 2},
        {"status": 500},
        {"status": 503, "body": "<html>busy</html>"},
        {"drop_after": 0},
        {"drop_after": 3},
        {"silence_after": 0},
        {"silence_after": 3},
        {"empty": "body"},
        {"empty": "done"},
        {"empty": "answer"},
    ],
    ids=str,
)
async def test_a_fault_that_passes(transport: str, fault: dict[str, Any]) -> None:
    turn = {"reasoning": "think a while about it", "content": "hello", "chunk_chars": 4, "faults": [fault]}
    async with bench(transport, turn) as run:
        completion = await run.ask()
        assert (completion.message.content, completion.attempts) == ("hello", 2)
        assert len(run.waits) == 1
        if "retry_after" in fault:
            assert 2 <= run.waits[0] <= 3


async def test_a_fault_that_stays(transport: str) -> None:
    async with bench(transport, {"content": "x", "faults": [{"status": 502, "times": 0}]}) as run:
        with pytest.raises(ModelUnavailable, match="3 attempts"):
            await run.ask()


async def test_insufficient_resources_are_retried(transport: str) -> None:
    turn = {"content": "half", "finish_reason": "insufficient_system_resource"}
    async with bench(transport, turn) as run:
        with pytest.raises(ModelUnavailable, match="lack of resources"):
            await run.ask()
        assert run.client.spent.failed == 3
        assert run.client.spent.cost_usd == pytest.approx(run.usage.cost_usd)


async def test_length_cuts_amid_a_call(transport: str) -> None:
    call = {"name": "sh", "arguments": {"command": "echo " + "a b c " * 50}}
    async with bench(transport, {"content": "so:", "tool_calls": [call]}) as run:
        completion = await run.ask(max_tokens=40)
        assert completion.cut
        assert all(call.problem for call in completion.message.tool_calls)
        run.history.append(completion.message)
        for call in completion.message.tool_calls:
            run.history.append(tool(call.id, call.problem or ""))
        await run.ask()  # the history is one that the API takes


async def test_content_filter(transport: str) -> None:
    async with bench(transport, {"content": "", "finish_reason": "content_filter"}) as run:
        assert (await run.ask()).finish_reason == "content_filter"


async def test_missing_usage_is_estimated(transport: str) -> None:
    async with bench(transport, {"content": "hello there", "usage": False}) as run:
        completion = await run.ask()
        assert completion.usage.estimated and completion.usage.completion_tokens == 2
        assert completion.cost_usd > 0


async def test_too_long_for_the_window(transport: str) -> None:
    async with bench(transport, {"content": "x"}, context_window_of_server=2000) as run:
        with pytest.raises(ContextOverflow, match="maximum context length is 2000"):
            await run.ask(max_tokens=1900)


async def test_history_that_the_server_refuses(transport: str) -> None:
    turn = {"reasoning": "r", "tool_calls": [CALL]}
    async with bench(transport, turn) as run:
        run.history.append((await run.ask()).message)
        run.history.append(tool(run.history[-1].tool_calls[0].id, "ok"))
        whole = list(run.history)
        for without in (b',"reasoning_content":"r"', b"," + whole[-1].wire):
            run.history = Broken(whole, without=without)
            with pytest.raises(HistoryRefused, match=r"400"):
                await run.ask()


async def test_a_key_that_nobody_knows(transport: str) -> None:
    async with bench(transport, {"content": "x"}, token="sk-unknown-0123456789") as run:
        with pytest.raises(FatalModelError, match="DEEPSEEK_API_KEY") as caught:
            await run.ask()
        assert "0123456789" not in str(caught.value)
        assert caught.value.status == 401


@pytest.mark.parametrize(("status", "says"), [(402, "balance"), (422, "parameters"), (404, "404")])
async def test_refusals_stop_at_once(transport: str, status: int, says: str) -> None:
    async with bench(transport, {"content": "x", "faults": [{"status": status}]}) as run:
        with pytest.raises(FatalModelError, match=says):
            await run.ask()
        assert run.waits == []


async def test_the_limit_of_the_relay_reads_as_a_cost_limit(transport: str) -> None:
    async with bench(transport, {"content": "x"}, {"content": "y"}, relay_limit=0.000001) as run:
        with pytest.raises(CostLimitReached):
            for _ in range(2):
                await run.ask(max_tokens=50)
