"""A shell session whose stream fails. What works is in contract.py, in real environments."""

from __future__ import annotations

import asyncio

import pytest

from runner.environments import shell_session
from runner.environments.shell_session import ShellSessionClosed, ShellSessionPool


class SilentStream:
    """A stream without an end, as a busy engine may leave it."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def read(self) -> bytes:
        await self.closed.wait()
        return b""

    async def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        self.closed.set()


async def test_a_session_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_session, "BEGIN_LIMIT_SEC", 0.1)
    opened: list[SilentStream] = []

    async def opener(user: str | None) -> SilentStream:
        opened.append(SilentStream())
        return opened[-1]

    pool = ShellSessionPool(opener)
    with pytest.raises(ShellSessionClosed) as error:
        await asyncio.wait_for(pool.run("true", cwd="/", env={}, timeout_sec=None, user=None), 10)
    assert not error.value.started and opened[-1].closed.is_set()
    await pool.aclose()
