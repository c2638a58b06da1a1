"""Server-sent events and chunks from arbitrary bytes, Retry-After, and refusals as one line."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.llm import RetryableError
from src.llm.errors import refusal_error, retry_after
from src.llm.httpx_transport import LineSplitter, sse_data
from src.llm.stream import Answer
from src.llm.transport import parse_chunk
from src.text import Redactor

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


async def data_of(pieces: list[bytes]) -> list[str]:
    async def feed() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return [data async for data in sse_data(feed())]


@given(
    st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"data: x", b":"])), st.lists(st.integers(0, 99))
)
def test_lines_do_not_depend_on_the_cuts(parts: list[bytes], places: list[int]) -> None:
    data = b"".join(parts)
    splitter = LineSplitter()
    lines = [line for piece in cut(data, places) for line in splitter.feed(piece)]
    assert lines == re.split(rb"\r\n|\n|\r", data)[:-1]


@given(
    st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n"), max_size=8)),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 500)),
)
async def test_events_survive_cuts_comments_and_line_ends(
    texts: list[str], end: bytes, places: list[int]
) -> None:
    stream = b"".join(
        b": keep-alive" + end + end + b"event: x" + end + b"data: " + text.encode() + end + end
        for text in texts
    )
    assert await data_of(cut(stream, places)) == texts


async def test_events_in_detail() -> None:
    assert await data_of([b"data: a\ndata:b\n\ndata: cut off\n"]) == ["a\nb"]
    assert await data_of([b"\n\n\nid: 3\n\n: c\n\n"]) == []
    with pytest.raises(UnicodeDecodeError):
        await data_of([b"data: \xff\n\n"])


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "tool_calls",
                    "function",
                    "index",
                    "id",
                    "name",
                    "content",
                    "usage",
                    "model",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=4))
def test_no_chunk_crashes_the_reader(values: list[Any]) -> None:
    answer = Answer()
    for value in values:
        try:
            answer.add(parse_chunk(value, Redactor(())))
        except RetryableError:
            assert not isinstance(value, dict)
    assert isinstance(answer.content + answer.reasoning + "".join(answer.texts()), str)
    assert all(isinstance(call.arguments, str) for call in answer.calls)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("-3", 0.0),
        ("0", 0.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 12:00:30 -0000", 30.0),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}, NOW) == seconds
    assert retry_after({}, NOW) is None


@given(st.text(max_size=200), st.integers(100, 599))
def test_any_refusal_is_one_line_without_the_key(text: str, code: int) -> None:
    key = "sk-0123456789"
    error = str(refusal_error(code, f"{text}{key}{text}", {}, Redactor([key])))
    assert key not in error
    assert len(error.splitlines()) == 1
    assert len(error) < 800
