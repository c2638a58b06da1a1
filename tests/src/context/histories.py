"""Strategies for histories of any shape, for property tests."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from src.llm.messages import Conversation, Image, Message, ToolCall, assistant, system, tool, user
from src.llm.usage import Usage

HEAD = [
    system("You are an agent."),
    user("The task: write /app/result.txt.\n\n<environment>\n/app\n</environment>"),
]
PIXEL = Image("image/png", "iVBORw0KGgo=")


class LetterCounter:
    """Counts characters, so that sizes in tests are easy to see."""

    exact = True

    def count(self, text: str) -> int:
        return len(text)

    def head(self, text: str, tokens: int) -> str:
        return text[:tokens]

    def tail(self, text: str, tokens: int) -> str:
        return text[len(text) - tokens :] if tokens else ""


@st.composite
def histories(draw: st.DrawFn, *, most: int = 14, longest: int = 600) -> list[Message]:
    """Draw a head and turns: with calls and answers, with images, or with text and a nudge."""
    messages = list(HEAD)
    for number in range(draw(st.integers(0, most))):
        thought = "t" * draw(st.integers(0, 40))
        sizes = draw(st.lists(st.integers(0, longest), max_size=3))
        calls = [
            ToolCall(f"call_{number}_{i}", "shell_command", '{"command":"x"}') for i in range(len(sizes))
        ]
        messages.append(assistant(f"step {number}", thought, calls))
        messages += [
            tool(call.id, f"{call.id}:" + "o" * size) for call, size in zip(calls, sizes, strict=True)
        ]
        if not calls:
            messages.append(user(f"nudge {number}"))
        elif draw(st.booleans()):
            messages.append(user("pictures", [PIXEL]))
    return messages


def paired(messages: Sequence[Message]) -> bool:
    """Return whether every call is answered. Conversation raises for other errors of pairing."""
    return Conversation(messages).request_ready


def usage(prompt: int, completion: int = 0) -> Usage:
    return Usage.estimate(prompt, completion)
