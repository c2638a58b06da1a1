"""Key-shaped strings, and the values of the run's own variables, must never travel in a ZIP."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from runner.config import SECRET_VARIABLES
from runner.submission.findings import Finding

_MINIMUM = 8
_KEY_SHAPES: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("an API key (sk-…)", re.compile(rb"\bsk-[A-Za-z0-9_-]{20,}")),
    ("an AWS access key", re.compile(rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("a GitHub token", re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{36,}")),
    ("a GitHub token", re.compile(rb"\bgithub_pat_[A-Za-z0-9_]{50,}")),
    ("a Google API key", re.compile(rb"\bAIza[A-Za-z0-9_-]{35}\b")),
    ("a Hugging Face token", re.compile(rb"\bhf_[A-Za-z0-9]{30,}")),
    ("a Slack token", re.compile(rb"\bxox[abprs]-[A-Za-z0-9-]{10,}")),
    ("a private key", re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    ("a JSON web token", re.compile(rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")),
)


def check_secrets(path: str, data: bytes, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Findings for one file. The secret itself is never part of a message."""
    mend = "remove it from the file and revoke the key: it may have been copied already"
    for what, shape in _KEY_SHAPES:
        for found in shape.finditer(data):
            line = data.count(b"\n", 0, found.start()) + 1
            yield Finding("secret_in_zip", f"looks like {what}", mend, path, line)
    for name in SECRET_VARIABLES:
        value = environ.get(name, "").strip().encode()
        if len(value) >= _MINIMUM and (position := data.find(value)) >= 0:
            line = data.count(b"\n", 0, position) + 1
            yield Finding("secret_in_zip", f"holds the value of {name}", mend, path, line)
