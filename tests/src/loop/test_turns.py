"""The kinds of turns without a tool call, and what follows them."""

import pytest

from src.llm.messages import Message, assistant
from src.loop.turns import EndPolicy, Turn, classify

NARRATED = [
    "The file is there. Let me now run the tests.",
    "I'll check the output next:",
    "Good.\nNow I will write the script",
    "Next, let's look at main.py...",
]
DONE = [
    "I fixed the script; all checks pass.",
    "The task is complete. Let me know if anything is missing? No: everything was verified.",
    "Let me summarise. The server runs on port 8080 and answers.",
    "What remains open: nothing.",
]


def turn(content: str) -> Message:
    return assistant(content, reasoning="thinking")


@pytest.mark.parametrize("content", NARRATED)
def test_an_announcement_is_no_result(content: str) -> None:
    assert classify(turn(content)) is Turn.NARRATED


@pytest.mark.parametrize("content", DONE)
def test_a_result_is_a_claim(content: str) -> None:
    assert classify(turn(content)) is Turn.CLAIMED_DONE


def test_reasoning_alone_is_silent() -> None:
    assert classify(turn(" \n")) is Turn.SILENT


def test_first_claim_is_verified_second_ends() -> None:
    policy = EndPolicy("make /app/x", max_nudges=3)
    first = policy.follow_up(turn("Done."))
    assert first is not None and "make /app/x" in first
    policy.reset_nudges()
    assert policy.follow_up(turn("All demands hold.")) is None


def test_nudges_are_bounded_and_then_count_as_a_claim() -> None:
    policy = EndPolicy("make /app/x", max_nudges=3)
    nudges = [policy.follow_up(turn("")) for _ in range(3)]
    assert all(text is not None and "make /app/x" not in text for text in nudges)
    verification = policy.follow_up(turn(""))
    assert verification is not None and "make /app/x" in verification


def test_work_in_between_starts_nudges_afresh() -> None:
    policy = EndPolicy("x", max_nudges=1)
    assert "make" not in (policy.follow_up(turn("")) or "make")
    policy.reset_nudges()
    assert policy.follow_up(turn("")) is not None
    assert not policy.verified


def test_cut_answers_are_nudged_up_to_the_limit() -> None:
    policy = EndPolicy("x", max_nudges=2)
    assert [policy.follow_up_cut(64_000) is None for _ in range(3)] == [False, False, True]
