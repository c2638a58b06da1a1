"""Cassettes: model calls and their answers in one JSON-lines file, and the upstreams that write and read it.

Lines, in order: a header `{"cassette": 1, "origin": …, "describe": …}`; parts of requests
`{"part": <digest>, "value": …}` (each message and the tools once, so that a conversation that grows does not
make a file that grows with its square); exchanges `{"digest", "request", "status", "headers", "chunks",
"ended"}`, where `request` names its parts. A chunk is a string, or `{"base64": …}` where its bytes alone are
no UTF-8. A last line that a crash cut short is ignored.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runner.relay.accounts import TOKEN_PREFIX

FORMAT = 1
# Who asks, not what is asked: these must not keep a replay from matching.
_VOLATILE = frozenset({"user", "user_id", "metadata", "safety_identifier", "prompt_cache_key"})
_RUN_TOKEN = re.compile(re.escape(TOKEN_PREFIX) + r"[0-9a-f]{40}")
_HIDDEN = "***"

Ended = Literal["complete", "dropped"]


class CassetteError(Exception):
    """A cassette that cannot be used: one line that says which file and why."""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call and its answer, without secrets."""

    digest: str
    request: Mapping[str, Any]
    status: int
    headers: Mapping[str, str]
    chunks: tuple[bytes, ...]
    ended: Ended

    async def body(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk


def clean_request(payload: Mapping[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """A request as it is compared and stored: no volatile keys, no run token, no secret."""
    kept = {name: value for name, value in payload.items() if name not in _VOLATILE}
    return json.loads(scrub(canonical(kept), secrets))


def request_digest(cleaned: Mapping[str, Any]) -> str:
    """SHA-256 of a cleaned request, in hex. Order of keys does not matter."""
    return hashlib.sha256(canonical(cleaned).encode()).hexdigest()


def canonical(value: Any) -> str:
    # ASCII: lone surrogates, which JSON can carry and UTF-8 cannot, survive as escapes.
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def scrub(text: str, secrets: Sequence[str]) -> str:
    """A text without run tokens and without any of the secrets."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, _HIDDEN)
    return _RUN_TOKEN.sub(TOKEN_PREFIX + _HIDDEN, text)


class CassetteWriter:
    """Appends exchanges. One writer a file; a line is written in one piece."""

    def __init__(self, path: Path, *, origin: str, describe: str, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        self._parts: set[str] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            old = Cassette.load(path)
            if old.origin != origin:
                raise CassetteError(f"{path}: was recorded from {old.origin}, cannot go on with {origin}")
            self._parts = set(old.parts)
            _drop_torn_line(path)
            self._file = path.open("ab")
        else:
            self._file = path.open("wb")
            self._write({"cassette": FORMAT, "origin": origin, "describe": scrub(describe, secrets)})
        self._lock = asyncio.Lock()

    async def add(
        self,
        cleaned: dict[str, Any],
        status: int,
        headers: Mapping[str, str],
        chunks: list[bytes],
        ended: Ended,
    ) -> None:
        """Writes one exchange to the file, and out of this process's memory."""
        async with self._lock:
            await asyncio.to_thread(self._add, cleaned, status, headers, chunks, ended)

    def _add(
        self,
        cleaned: dict[str, Any],
        status: int,
        headers: Mapping[str, str],
        chunks: list[bytes],
        ended: Ended,
    ) -> None:
        request = dict(cleaned)
        for name in ("messages", "tools"):
            if isinstance(request.get(name), list):
                request[name] = [self._part(value) for value in request[name]]
        self._write(
            {
                "digest": request_digest(cleaned),
                "request": request,
                "status": status,
                "headers": dict(headers),
                "chunks": [_encoded(chunk, self._secrets) for chunk in chunks],
                "ended": ended,
            }
        )
        self._file.flush()

    def _part(self, value: Any) -> str:
        digest = hashlib.sha256(canonical(value).encode()).hexdigest()[:32]
        if digest not in self._parts:
            self._parts.add(digest)
            self._write({"part": digest, "value": value})
        return digest

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Cassette:
    """A cassette that was read whole."""

    path: Path
    origin: str
    describe: str
    parts: Mapping[str, Any]
    calls: tuple[RecordedCall, ...]

    @classmethod
    def load(cls, path: Path) -> Cassette:
        """Raises CassetteError where the file cannot be read or is no cassette."""
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise CassetteError(f"{path}: {error.strerror}") from None
        torn = lines.pop()  # empty where the file ends with a whole line
        header: dict[str, Any] = {}
        parts: dict[str, Any] = {}
        calls: list[RecordedCall] = []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if number == 1:
                    header = entry
                elif "part" in entry:
                    parts[entry["part"]] = entry["value"]
                else:
                    calls.append(_recorded_call(entry, parts))
            except (ValueError, KeyError, TypeError) as error:
                raise CassetteError(f"{path}: line {number}: {type(error).__name__}: {error}") from None
        if header.get("cassette") != FORMAT:
            found = "cut short" if torn and not lines else f"format {header.get('cassette')!r}"
            raise CassetteError(f"{path}: not a cassette of format {FORMAT} ({found})")
        return cls(path, header["origin"], header["describe"], parts, tuple(calls))


def _recorded_call(entry: Mapping[str, Any], parts: Mapping[str, Any]) -> RecordedCall:
    request = dict(entry["request"])
    for name in ("messages", "tools"):
        if isinstance(request.get(name), list):
            request[name] = [parts[digest] for digest in request[name]]
    return RecordedCall(
        digest=entry["digest"],
        request=request,
        status=entry["status"],
        headers=entry["headers"],
        chunks=tuple(_decoded(chunk) for chunk in entry["chunks"]),
        ended=entry["ended"],
    )


def _drop_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


def _encoded(chunk: bytes, secrets: Sequence[str]) -> str | dict[str, str]:
    try:
        return scrub(chunk.decode(), secrets)
    except UnicodeDecodeError:
        for secret in secrets:
            chunk = chunk.replace(secret.encode(), _HIDDEN.encode()) if secret else chunk
        return {"base64": base64.b64encode(chunk).decode()}


def _decoded(chunk: str | Mapping[str, str]) -> bytes:
    return chunk.encode() if isinstance(chunk, str) else base64.b64decode(chunk["base64"])


def first_difference(ours: Any, theirs: Any, path: str = "$") -> tuple[str, Any, Any] | None:
    """Where two JSON values first differ: (JSON path, value in the first, value in the second), or None.

    A missing key or element shows as the word `absent`.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            where = f"{path}.{name}"
            if name not in theirs or name not in ours:
                return where, ours.get(name, "absent"), theirs.get(name, "absent")
            if found := first_difference(ours[name], theirs[name], where):
                return found
        return None
    if isinstance(ours, list) and isinstance(theirs, list):
        for index in range(max(len(ours), len(theirs))):
            where = f"{path}[{index}]"
            if index >= len(ours) or index >= len(theirs):
                absent = ["absent"]
                return where, (ours[index:] or absent)[0], (theirs[index:] or absent)[0]
            if found := first_difference(ours[index], theirs[index], where):
                return found
        return None
    return None if ours == theirs and type(ours) is type(theirs) else (path, ours, theirs)
