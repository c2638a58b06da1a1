"""Bytes over an exec that is made for text: the agent's end of `encode` and `decode` in core.sh.

Into the container, bytes travel as base64, or as octal escapes, which every printf knows (four
characters per byte). Out of it, they travel as base64, or as hex by od, hexdump or xxd. Without any
of these the plain text is used, exact only if the exec does not change it.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shlex

from src.tools.workspace.errors import WorkspaceError

# Linux refuses one argument of 128 KiB or more (MAX_ARG_STRLEN); a command is one argument of `bash
# -c`.
COMMAND_LIMIT = 96 * 1024
_OCTAL = tuple(f"\\{byte:03o}" for byte in range(256))
_PLAIN = re.compile(r"[ -~]*")


def encode(data: bytes, encoding: str) -> str:
    """Return bytes as `decode` in core.sh reads them. Only octal backslashes need quoting."""
    if encoding == "base64":
        return base64.b64encode(data).decode("ascii")
    return "".join(_OCTAL[byte] for byte in data)


def capacity(characters: int, encoding: str) -> int:
    """Return how many bytes fit into this many encoded characters."""
    return max(1, characters // 4 * 3 if encoding == "base64" else characters // 4)


def decode(text: str, encoding: str) -> bytes:
    """Return the bytes that `encode` in core.sh printed. Raises WorkspaceError for other text."""
    try:
        if encoding == "base64":
            return binascii.a2b_base64(text)
        if encoding == "raw":
            return text.encode("utf-8", "surrogateescape")
        return bytes.fromhex(text)
    except (binascii.Error, ValueError) as error:
        raise WorkspaceError(f"the environment damaged what its exec printed ({error})") from None


def to_bytes(text: str) -> bytes:
    """Return text as the container's bytes, with surrogate escapes converted back."""
    try:
        return os.fsencode(text) if not text.isascii() else text.encode("ascii")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def shell_words(arguments: tuple[str, ...]) -> tuple[str, str]:
    """Return arguments as shell text: assignments to make first, and the words to pass.

    Arguments that are not printable ASCII are assigned from printf's octal escapes, so that the
    command is pure ASCII. A dot at the end protects trailing newlines from the command
    substitution.
    """
    assignments: list[str] = []
    words: list[str] = []
    for number, argument in enumerate(arguments):
        if _PLAIN.fullmatch(argument):
            words.append(shlex.quote(argument))
        else:
            octal = encode(to_bytes(argument), "octal")
            assignments.append(f"w{number}=$(printf '{octal}.');")
            words.append(f'"${{w{number}%.}}"')
    return " ".join(assignments), " ".join(words)
