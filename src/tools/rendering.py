"""Rendering output as text that a model can read, within a budget of tokens. Pure functions."""

from __future__ import annotations

import re

from src.llm.usage import TokenCounter

# ECMA-48: CSI sequences, OSC/DCS/APC strings with their terminator, charset selection,
# two-character escapes.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]+[0-~]"
    r"|\x1b[0-Z\\^-~]?"
)
_NULS = re.compile("\0+")
_CONTROLS = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_BLANKED = "␀"

HEAD_SHARE = 0.4  # of the budget; errors are more often at the end than at the start
_NEAR_LINE_END = 200  # characters; a cut moves to a line end within this distance
_CHARS_PER_TOKEN = 24  # characters that are considered for each token of budget


def readable(data: bytes) -> str:
    """Return text without escape codes, NULs and other control characters.

    Invalid UTF-8 becomes `\\xNN`, a run of NULs one `␀`. Of a line that was overwritten after
    carriage returns, only the last state is kept. Backspaces delete the character before them.
    """
    text = data.decode("utf-8", errors="backslashreplace")
    if "\x1b" in text:
        text = _ESCAPES.sub("", text)
    if "\b" in text:
        text = "\n".join(_backspaced(line) for line in text.split("\n"))
    if "\r" in text:
        text = "\n".join(_last_state(line) for line in text.split("\n"))
    return _CONTROLS.sub("", _NULS.sub(_BLANKED, text))


def printable_line(text: str) -> str:
    """Return the line with control characters (except tabs) and invalid UTF-8 as `\\xNN`."""
    if text.isprintable():
        return text
    return "".join(c if _is_printable(c) else _escaped(c) for c in text)


def printable_path(path: str) -> str:
    """Return the path on one line, with control characters and invalid UTF-8 escaped."""
    return printable_line(path).replace("\t", "\\t")


def fit(
    head: str,
    tail: str,
    budget: int,
    counter: TokenCounter,
    *,
    lost_bytes: int = 0,
    full_text: str | None = None,
) -> str:
    """Return `head + tail` in at most `budget` tokens, without its middle if it is too long.

    One line replaces the middle. It names the amount that was left out.

    Args:
        head: The start of the text, or all of it.
        tail: The end of the text, if bytes are missing before it.
        budget: Tokens of the result, at most.
        lost_bytes: Bytes that are already missing between head and tail.
        full_text: A file in the container with the whole text, which the line names.
    """
    whole = head + tail
    if lost_bytes == 0:
        if _fits(whole, budget, counter):
            return whole
        head = tail = whole
    reach = budget * _CHARS_PER_TOKEN
    start, end = head[:reach], tail[-reach:] if reach else ""
    room = budget - counter.count(_note(lost_bytes + len(whole) * 4, len(whole), 10**9, full_text)) - 4
    while room > 0:
        first = _to_line_end(counter.head(start, max(0, int(room * HEAD_SHARE))))
        last = _from_line_start(counter.tail(end, room - counter.count(first)))
        if lost_bytes == 0 and len(first) + len(last) >= len(whole):  # a counter that does not add up
            room -= 4
            continue
        note = _left_out(head, tail, first, last, lost_bytes, counter, full_text)
        result = _joined(first, note, last)
        over = counter.count(result) - budget
        if over <= 0:
            return result
        room -= max(over, 4)
    return counter.head(_note(lost_bytes, None, None, full_text), budget)


def fit_lines(lines: list[str], budget: int, counter: TokenCounter) -> tuple[str, int]:
    """Return as many of the first lines as the budget allows, at least one, and their number."""
    text = "\n".join(lines)
    if counter.count(text) > budget:
        lines = lines[: max(1, counter.head(text, max(0, budget)).count("\n"))]
        text = "\n".join(lines)
    return text, len(lines)


def _fits(text: str, budget: int, counter: TokenCounter) -> bool:
    # Hardly any text has tokens this long, so text that cannot fit is not counted.
    if len(text) > budget * 4 * _CHARS_PER_TOKEN:
        return False
    return counter.count(text) <= budget


def _left_out(
    head: str, tail: str, first: str, last: str, lost: int, counter: TokenCounter, full_text: str | None
) -> str:
    if lost:
        missing = head[len(first) :] + tail[: len(tail) - len(last)]
        lines = None
    else:
        missing = head[len(first) : len(head) - len(last)]
        lines = missing.count("\n") + (not missing.endswith("\n"))
    size = len(missing.encode("utf-8", errors="replace"))
    sample = missing[:20_000]
    tokens = counter.count(sample) * (size + lost) // max(1, len(sample.encode("utf-8", errors="replace")))
    return _note(size + lost, tokens if sample else lost // 4, lines, full_text)


def _note(size: int, tokens: int | None, lines: int | None, full_text: str | None) -> str:
    amounts = [f"{size:,} bytes"]
    if tokens is not None:
        amounts.insert(0, f"about {tokens:,} tokens")
    if lines is not None:
        amounts.append(f"{lines:,} lines")
    where = f"; full text: {full_text}" if full_text else ""
    return f"[... {', '.join(amounts)} left out{where} ...]"


def _joined(first: str, note: str, last: str) -> str:
    return f"{first}{'' if not first or first.endswith(chr(10)) else chr(10)}{note}\n{last}"


def _to_line_end(text: str) -> str:
    at = text.rfind("\n")
    return text[: at + 1] if at >= 0 and len(text) - at <= _NEAR_LINE_END else text


def _from_line_start(text: str) -> str:
    at = text.find("\n")
    return text[at + 1 :] if 0 <= at <= _NEAR_LINE_END and at + 1 < len(text) else text


def _backspaced(line: str) -> str:
    if "\b" not in line:
        return line
    kept: list[str] = []
    for char in line:
        if char != "\b":
            kept.append(char)
        elif kept and kept[-1] != "\r":
            kept.pop()
    return "".join(kept)


def _last_state(line: str) -> str:
    if "\r" not in line:
        return line
    return next((state for state in reversed(line.split("\r")) if state.strip()), "")


def _is_printable(char: str) -> bool:
    return char == "\t" or char.isprintable() or (char >= "\xa0" and char.isspace())


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a surrogate-escaped byte
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
