"""The protocol with supervisor.sh: requests as shell text, answers as framed bytes."""

from __future__ import annotations

import errno
import os
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib import resources

from runner.environments.base import MAX_COMMAND_BYTES, OUTPUT_LIMIT_BYTES

SUPERVISOR = resources.files("runner.environments").joinpath("supervisor.sh").read_bytes()

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# In some shells these are read-only, or have side effects on the supervisor.
_RESERVED = re.compile(
    r"(UID|EUID|PPID|SHELLOPTS|BASHOPTS|IFS|BASH.*|GROUPS|RANDOM|SECONDS|LINENO|capstan_.*)\Z"
)


def _bytes(text: str, what: str) -> bytes:
    if "\0" in text:
        raise ValueError(f"{what} holds a NUL")
    return text.encode("utf-8", errors="surrogateescape")


def quote(data: bytes) -> bytes:
    """Return one shell word that stands for exactly these bytes in every POSIX shell."""
    return b"'" + data.replace(b"'", b"'\\''") + b"'"


def environment_words(command: str, env: Mapping[str, str]) -> tuple[bytes, list[bytes], bool]:
    """Return (command, NAME=value words, whether `export` can set them all), checked and encoded.

    Raises:
        OSError: E2BIG, where the command or a variable would not fit into one argument of execve.
        ValueError: A NUL anywhere, or a variable's name that is empty or holds "=".
    """
    words: list[bytes] = []
    by_export = True
    for name, value in env.items():
        if not name or "=" in name:
            raise ValueError(f"{name!r} is no name for an environment variable")
        by_export = by_export and bool(_IDENTIFIER.match(name)) and not _RESERVED.match(name)
        words.append(_bytes(f"{name}={value}", f"the variable {name}"))
    encoded = _bytes(command, "the command")
    for word in (encoded, *words):
        if len(word) > MAX_COMMAND_BYTES:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), f"{len(word)} bytes in one argument")
    return encoded, words, by_export


def run_request(nonce: str, command: str, cwd: str, env: Mapping[str, str]) -> bytes:
    """Return what makes the supervisor run a command. Raises as `environment_words`."""
    encoded, variables, by_export = environment_words(command, env)
    words = [_bytes(cwd, "cwd"), encoded, b"export" if by_export else b"env", *variables]
    return b"capstan_run " + nonce.encode() + b" " + b" ".join(map(quote, words)) + b"\n"


def kill_request(nonce: str, pid: int, grace_sec: float) -> bytes:
    """Return what makes the supervisor end a session and all its descendants, TERM first."""
    return f"capstan_kill {nonce} {pid} {max(0, round(grace_sec * 10))}\n".encode()


class Phase(Enum):
    """How far the answer to one request has come."""

    WAITING = "waiting"
    RUNNING = "running"
    DRAINING = "draining"
    FREE = "free"


@dataclass
class FrameParser:
    """Reads the answer to one request from a session's byte stream, however it is cut up.

    `output` is called with the command's output as it comes. `pid` is known from RUNNING on,
    `return_code` from DRAINING on. Bytes after the end of the command are dropped.
    """

    nonce: str
    output: Callable[[bytes], None]
    phase: Phase = Phase.WAITING
    pid: int | None = None
    return_code: int | None = None
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> None:
        """Take in the next bytes of the stream."""
        self._buffer += data
        nonce = self.nonce.encode()
        if self.phase is Phase.WAITING:
            number = self._take_marker(nonce + b" start ", keep=0)
            if number is None:
                return
            self.pid, self.phase = int(number), Phase.RUNNING
        if self.phase is Phase.RUNNING:
            number = self._take_marker(b"\n" + nonce + b" end ", keep=None)
            if number is None:
                return
            self.return_code, self.phase = int(number), Phase.DRAINING
        if self.phase is Phase.DRAINING:
            marker = nonce + b" free\n"
            if marker in self._buffer:
                self.phase = Phase.FREE
                self._buffer.clear()
            else:
                del self._buffer[: -len(marker)]

    def flush(self) -> None:
        """Pass on what was held back as a marker's possible start, after the stream's end."""
        if self.phase is Phase.RUNNING and self._buffer:
            self.output(bytes(self._buffer))
            self._buffer.clear()

    def _take_marker(self, marker: bytes, keep: int | None) -> bytes | None:
        """Return the rest of the marker's line once it is complete. Bytes before it go to `output`.

        keep=0 drops them instead: a shell's complaint from before the command.
        """
        at = self._buffer.find(marker)
        line_end = self._buffer.find(b"\n", at + len(marker)) if at >= 0 else -1
        sure = at if at >= 0 else max(0, len(self._buffer) - len(marker) + 1)
        if sure:
            if keep is None:
                self.output(bytes(self._buffer[:sure]))
            del self._buffer[:sure]
        if line_end < 0:
            return None
        number = bytes(self._buffer[len(marker) : line_end - sure])
        del self._buffer[: line_end - sure + 1]
        return number


class BoundedOutput:
    """Collects bytes and keeps at most `limit` of them: the first half and the last half."""

    def __init__(self, limit: int = OUTPUT_LIMIT_BYTES) -> None:
        self._head_limit = limit // 2
        self._tail_limit = limit - self._head_limit
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._total = 0

    def add(self, data: bytes) -> None:
        """Take in the next bytes."""
        self._total += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(self._tail[0]) >= self._tail_limit:
            self._tail_size -= len(self._tail.popleft())

    def getvalue(self) -> bytes:
        """Return what was kept, with one line in place of what was left out."""
        tail = b"".join(self._tail)[-self._tail_limit :] if self._tail else b""
        missing = self._total - len(self._head) - len(tail)
        if missing <= 0:
            return bytes(self._head) + tail
        return bytes(self._head) + b"\n[%d bytes of output left out here]\n" % missing + tail

    def text(self) -> str | None:
        """Return the same as text, with U+FFFD for what is not UTF-8; None if it is empty."""
        return self.getvalue().decode("utf-8", errors="replace") or None
