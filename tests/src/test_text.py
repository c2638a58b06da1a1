"""Redaction of secrets, and texts on one line."""

import json

from hypothesis import given
from hypothesis import strategies as st

from src.text import Redactor, one_line


@given(st.text(min_size=6), st.text(), st.text())
def test_the_secret_is_gone_from_plain_text(secret: str, before: str, after: str) -> None:
    if secret not in "[REDACTED]":
        assert secret not in Redactor([secret])(before + secret + after).replace("[REDACTED]", "")


@given(st.text(min_size=6), st.booleans())
def test_the_secret_is_gone_from_json(secret: str, ascii_only: bool) -> None:
    written = json.dumps({"text": f"key={secret}."}, ensure_ascii=ascii_only)
    assert json.loads(Redactor([secret])(written)) == {"text": "key=[REDACTED]."}


def test_no_secret_no_change() -> None:
    assert Redactor(["", ""])("text") == "text"


def test_redaction() -> None:
    assert Redactor(["secret1", "secret2"])("a secret1 b secret2") == "a [REDACTED] b [REDACTED]"
    assert Redactor(["", "b"])("abc") == "abc"


def test_one_line() -> None:
    assert one_line(" a\n b\t c ") == "a b c"
    assert len(one_line("x" * 5000)) == 600


def test_one_line_takes_lone_surrogates_and_controls() -> None:
    assert one_line("a\ud800b\n\x1b[31mc\u2028d") == "a?b [31mc d"
