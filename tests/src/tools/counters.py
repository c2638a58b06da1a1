"""A token counter for tests. A token is a run of at most four characters of one kind."""

import re

_TOKEN = re.compile(r"[A-Za-z]{1,4}|[0-9]{1,3}|[ \t]{1,4}|\n|.", re.DOTALL)


class SimpleCounter:
    exact = True

    def count(self, text: str) -> int:
        return sum(1 for _ in _TOKEN.finditer(text))

    def head(self, text: str, tokens: int) -> str:
        spans = list(_TOKEN.finditer(text))[:tokens] if tokens > 0 else []
        return text[: spans[-1].end()] if spans else ""

    def tail(self, text: str, tokens: int) -> str:
        spans = list(_TOKEN.finditer(text))[-tokens:] if tokens > 0 else []
        start = spans[0].start() if spans else len(text)
        while start < len(text) and self.count(text[start:]) > tokens:
            start += 1
        return text[start:]
