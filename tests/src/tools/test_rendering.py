"""Output of programs, made readable and cut to a budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.tools.rendering import fit, printable_line, printable_path, readable
from tests.src.tools.counters import SimpleCounter

COUNTER = SimpleCounter()
texts = st.text(st.sampled_from("ab 1\n,é中"), max_size=600)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\ntext\t1\n", "plain\ntext\t1\n"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "red xlink"),
        (b"\x1b(Bx\x1b=y\x1b", "xy"),
        (b" 10%\r 50%\r100%\nnext\r\n", "100%\nnext\n"),
        (b"50%\r   \r", "50%"),
        (b"ab\b\bcd a_\bb", "cd ab"),
        (b"a\0\0\0b", "a␀b"),
        (b"caf\xe9 \xc3\xa9 \xff", "caf\\xe9 é \\xff"),
        (b"bell\x07 \x0c\x7f\xc2\x9b", "bell "),
    ],
)
def test_readable(data: bytes, text: str) -> None:
    assert readable(data) == text


@given(st.binary(max_size=300))
def test_readable_holds_no_controls_and_is_idempotent(data: bytes) -> None:
    text = readable(data)
    assert all(c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f") for c in text)
    assert readable(text.encode()) == text


def test_lines_and_paths_for_display() -> None:
    assert printable_line("a\tb\x1b[0m\udcff é\u3000") == "a\tb\\x1b[0m\\xff é\u3000"
    assert printable_path("a\nb\tc") == "a\\x0ab\\tc"


@given(texts, st.integers(0, 120))
def test_never_over_budget_and_whole_where_it_fits(text: str, budget: int) -> None:
    shown = fit(text, "", budget, COUNTER, full_text="/t/1.out")
    assert COUNTER.count(shown) <= budget
    if COUNTER.count(text) <= budget:
        assert shown == text
    assert fit(shown, "", budget, COUNTER) == shown


@given(texts, texts, st.integers(60, 200), st.integers(0, 10**9))
def test_shows_a_prefix_and_a_suffix_around_one_line(head: str, tail: str, budget: int, lost: int) -> None:
    shown = fit(head, tail, budget, COUNTER, lost_bytes=lost, full_text="/t/1.out")
    assert COUNTER.count(shown) <= budget
    if shown == head + tail:
        assert lost == 0
        return
    first, _, last = shown.partition("[... ")
    assert (
        head.startswith(first)
        or head.startswith(first.removesuffix("\n"))
        or (head + tail).startswith(first.removesuffix("\n"))
    )
    missing, _, last = last.partition("...]\n")
    assert "bytes" in missing and "full text: /t/1.out" in missing
    assert tail.endswith(last) or (lost == 0 and (head + tail).endswith(last))


def test_the_note_says_how_much() -> None:
    text = "".join(f"line {n}\n" for n in range(1000))
    shown = fit(text, "", 100, COUNTER, full_text="/t/1.out")
    note = next(line for line in shown.splitlines() if line.startswith("[..."))
    kept = [line for line in shown.splitlines() if line.startswith("line ")]
    assert f"{1000 - len(kept)} lines left out; full text: /t/1.out ...]" in note
    assert shown.startswith("line 0\nline 1\n") and shown.endswith("line 999\n")
    assert len(shown.encode()) < len(text)


def test_bytes_lost_before_count() -> None:
    assert "1,000,0" in fit("head\n", "tail\n", 100, COUNTER, lost_bytes=1_000_000)
