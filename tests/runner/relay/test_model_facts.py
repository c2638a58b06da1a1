"""Facts about models: the runner reads the agent's own file, and counts with its overheads."""

from __future__ import annotations

import pytest

from runner.relay.profiles import PROFILES_FILE, chat_template, profile_for
from runner.relay.tokens import TokenCounts
from src.config import profiles as agent


@pytest.mark.parametrize("model", ["deepseek-v4-pro", "deepseek-v4-flash", "nobody-knows-this"])
def test_the_runner_and_the_agent_know_the_same(model: str) -> None:
    assert agent.PROFILES_FILE.samefile(PROFILES_FILE)
    assert profile_for(model).model_dump() == agent.profile_for(model).model_dump()


def test_an_unknown_model_has_a_small_window() -> None:
    profile = profile_for("nobody-knows-this")
    assert (profile.context_window, profile.max_output_tokens) == (200_000, 64_000)


def test_messages_calls_and_images_take_the_overheads_of_the_template() -> None:
    counts, template = TokenCounts(), chat_template()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"id": "1", "type": "function", "function": {"name": "run", "arguments": "{}"}}
    assert counts.message({"role": "user", "content": ""}) == template.message_tokens
    assert counts.message({"role": "user", "content": [image, image]}) == (
        template.message_tokens + 2 * template.image_tokens
    )
    assert counts.message({"role": "assistant", "content": "", "tool_calls": [call]}) == (
        template.message_tokens + template.call_tokens + counts.text("run") + counts.text("{}")
    )
