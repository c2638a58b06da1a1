"""A reader of almost-JSON: Python's literals and quotes, trailing commas, raw line breaks.

It accepts only text with one possible meaning. Truncated or ambiguous text raises LenientError.
"""

from __future__ import annotations

import re
from typing import Any

MAX_DEPTH = 60
_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])")
_WORD = re.compile(r"[A-Za-z_]\w*")
_WORDS: dict[str, Any] = {
    "true": True,
    "True": True,
    "false": False,
    "False": False,
    "null": None,
    "None": None,
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"}
_HEX = {"x": 2, "u": 4, "U": 8}


class LenientError(ValueError):
    """The text is not readable. The message names the error and its position for the model."""


def parse_lenient(text: str) -> Any:
    """Return the value in `text`. Extra closing brackets after it are ignored."""
    reader = _Reader(text)
    value = reader.value(0)
    rest = text[reader.at :].strip().rstrip("]}").strip()
    if rest:
        raise reader.error(f"there is more text after the value: {_excerpt(rest)}")
    return value


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def error(self, what: str) -> LenientError:
        return LenientError(f"{what} (at character {self.at} of {len(self.text)})")

    def peek(self) -> str:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self.error("it is nested too deeply")
        char = self.peek()
        if not char:
            raise self.error("it is cut off")
        if char == "{":
            return self.object(depth)
        if char == "[":
            return self.list(depth)
        if char in "\"'":
            return self.string()
        number = _NUMBER.match(self.text, self.at)
        if number:
            self.at = number.end()
            digits = number.group()
            return int(digits) if re.fullmatch(r"-?\d{1,400}", digits) else self.float(digits)
        word = _WORD.match(self.text, self.at)
        if word and word.group() in _WORDS:
            self.at = word.end()
            return _WORDS[word.group()]
        raise self.error(f"a value is expected, not {_excerpt(self.text[self.at :])}")

    def float(self, digits: str) -> float:
        value = float(digits)
        if value in (float("inf"), float("-inf")):
            raise self.error("a number is too large")
        return value

    def object(self, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        self.at += 1
        while True:
            char = self.peek()
            if char == "}":
                self.at += 1
                return result
            if not char:
                raise self.error("it is cut off inside an object")
            if char not in "\"'":
                raise self.error(f"a quoted name is expected, not {_excerpt(self.text[self.at :])}")
            key = self.string()
            if key in result:
                raise self.error(f"the name {key!r} comes twice")
            if self.peek() != ":":
                raise self.error(f"a colon is expected after {key!r}")
            self.at += 1
            result[key] = self.value(depth + 1)
            self.separator("}")

    def list(self, depth: int) -> list[Any]:
        result: list[Any] = []
        self.at += 1
        while True:
            if self.peek() == "]":
                self.at += 1
                return result
            result.append(self.value(depth + 1))
            self.separator("]")

    def separator(self, end: str) -> None:
        char = self.peek()
        if char == ",":
            self.at += 1
        elif not char:
            raise self.error("it is cut off")
        elif char != end:
            raise self.error(
                f"a comma or {end} is expected, not {_excerpt(self.text[self.at :])}; "
                "a quote inside a string must be escaped"
            )

    def string(self) -> str:
        quote, start, parts = self.text[self.at], self.at + 1, list[str]()
        self.at = start
        stop = re.compile(rf"[{quote}\\]")
        while True:
            match = stop.search(self.text, self.at)
            if match is None:
                raise self.error("it is cut off inside a string")
            parts.append(self.text[self.at : match.start()])
            self.at = match.end()
            if match.group() == quote:
                return _joined_surrogates("".join(parts))
            parts.append(self.escape())

    def escape(self) -> str:
        char = self.text[self.at : self.at + 1]
        if not char:
            raise self.error("it is cut off inside a string")
        self.at += 1
        if char in _HEX:
            digits = self.text[self.at : self.at + _HEX[char]]
            if re.fullmatch(rf"[0-9A-Fa-f]{{{_HEX[char]}}}", digits) and int(digits, 16) < 0x110000:
                self.at += len(digits)
                return chr(int(digits, 16))
        # An undefined escape, such as a regular expression's \d, stands for both of its characters.
        return _ESCAPES.get(char) or (char if char in "\"'\\/" else "" if char == "\n" else "\\" + char)


def _joined_surrogates(text: str) -> str:
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:30] + "…")
