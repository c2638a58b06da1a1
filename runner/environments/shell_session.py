"""Shell sessions in an environment: one long-lived `sh` each, which runs one command after another.

A session runs one command at a time. Commands side by side take several sessions, which are opened
when needed and kept. A command can leave a child behind that holds the session's stdout. Such a
session is not used until the child closes it; its output is read on, so that the child never
blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Protocol

from runner.environments.base import EnvironmentLost, ExecResult, ExecTimeout
from runner.environments.frames import (
    SUPERVISOR,
    BoundedOutput,
    FrameParser,
    Phase,
    kill_request,
    run_request,
)

_log = logging.getLogger(__name__)

TERM_GRACE_SEC = 1.0
KILL_LIMIT_SEC = 10.0
FREE_WAIT_SEC = 0.05
OPEN_LIMIT_SEC = 30.0
BEGIN_LIMIT_SEC = 60.0  # a command that has not begun by then
MAX_COMMANDS_AT_ONCE = 64


class ByteStream(Protocol):
    """Both directions of one process in the environment."""

    async def read(self) -> bytes:
        """Return the next bytes of its output; b"" once it is gone."""
        ...

    async def write(self, data: bytes) -> None:
        """Send it bytes. Raises OSError once it is gone."""
        ...

    def close(self) -> None:
        """Close both directions."""
        ...


Opener = Callable[[str | None], Awaitable[ByteStream]]
"""Starts `sh -s` as a user of the environment (None: its default) and returns its streams."""


class ShellSessionClosed(EnvironmentLost):
    """A session's shell ended. `started`: the command had begun; `output`: what it printed."""

    def __init__(self, started: bool, output: BoundedOutput) -> None:
        super().__init__("the environment's shell session ended")
        self.started = started
        self.output = output


class ShellSession:
    """One supervisor shell and the answer to its current request, for ShellSessionPool."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._parser: FrameParser | None = None
        self._changed = asyncio.Event()
        self._ended_at = 0.0
        self.closed = False
        self._reader = asyncio.create_task(self._read())

    @property
    def idle(self) -> bool:
        """Return whether the next request may be sent."""
        return not self.closed and (self._parser is None or self._parser.phase is Phase.FREE)

    @property
    def soon_idle(self) -> bool:
        """Return whether a command has just ended, so the session is probably free soon."""
        draining = self._parser is not None and self._parser.phase is Phase.DRAINING
        return (
            not self.closed
            and draining
            and asyncio.get_running_loop().time() < self._ended_at + FREE_WAIT_SEC
        )

    def reserve(self, parser: FrameParser) -> None:
        """Reserve the session for one request, whose answer goes to `parser`."""
        self._parser = parser

    async def send(self, data: bytes) -> None:
        """Send request bytes. A session that is gone becomes closed."""
        try:
            await self._stream.write(data)
        except OSError as error:
            _log.debug("session write: %s", error)
            self.close()

    async def changed(self) -> None:
        """Wait until the phase of the request changes, or the session closes."""
        self._changed.clear()
        await self._changed.wait()

    async def reached(self, *phases: Phase) -> None:
        """Wait until the answer has come to one of these phases, or the session is closed."""
        while not self.closed and self._parser is not None and self._parser.phase not in phases:
            await self.changed()

    async def _read(self) -> None:
        try:
            while data := await self._stream.read():
                if self._parser is None:
                    continue
                before = self._parser.phase
                self._parser.feed(data)
                if self._parser.phase is not before:
                    if self._parser.phase is Phase.DRAINING:
                        self._ended_at = asyncio.get_running_loop().time()
                    self._changed.set()
        except OSError as error:
            _log.debug("session read: %s", error)
        finally:
            self.closed = True
            self._stream.close()
            self._changed.set()

    def close(self) -> None:
        """End the shell by closing its stdin. Processes in the environment are not touched."""
        self.closed = True
        self._reader.cancel()
        self._stream.close()
        self._changed.set()


class ShellSessionPool:
    """Runs commands over sessions of one environment, for any of its users."""

    def __init__(self, opener: Opener, *, root_user: str | None = None) -> None:
        """Make a pool. `root_user` is the opener's name for a user who may signal every process."""
        self._open = opener
        self._root = root_user
        self._sessions: dict[str | None, list[ShellSession]] = {}
        self._slots = asyncio.Semaphore(MAX_COMMANDS_AT_ONCE)
        self._cleanups: set[asyncio.Task[None]] = set()

    async def run(
        self, command: str, *, cwd: str, env: Mapping[str, str], timeout_sec: float | None, user: str | None
    ) -> ExecResult:
        """Run one command. Raises as `Environment.exec`, and ShellSessionClosed."""
        async with self._slots:
            while True:
                nonce = secrets.token_hex(16)
                request = run_request(nonce, command, cwd, env)
                fresh = False
                try:
                    parser, output = self._parser(nonce)
                    session, fresh = await self._acquire(user, parser)
                    return await self._run(session, parser, output, request, timeout_sec)
                except ShellSessionClosed as closed:
                    # The agent's `killall sh` had ended an idle session: the command never began.
                    if closed.started or fresh:
                        raise

    @staticmethod
    def _parser(nonce: str) -> tuple[FrameParser, BoundedOutput]:
        output = BoundedOutput()
        return FrameParser(nonce, output.add), output

    async def _run(
        self,
        session: ShellSession,
        parser: FrameParser,
        output: BoundedOutput,
        request: bytes,
        timeout_sec: float | None,
    ) -> ExecResult:
        try:
            async with asyncio.timeout(timeout_sec):
                await session.send(request)
                await self._begun(session)
                await session.reached(Phase.DRAINING, Phase.FREE)
        except TimeoutError:
            if parser.return_code is None:
                await self._end(session, parser)
                parser.flush()
                raise ExecTimeout(timeout_sec or 0.0, output.text()) from None
        except asyncio.CancelledError:
            # The caller has no time to wait, but the command must end.
            self._later(self._end(session, parser))
            raise
        if parser.return_code is None:
            parser.flush()
            raise ShellSessionClosed(parser.phase is not Phase.WAITING, output)
        return ExecResult(output.text(), None, parser.return_code)

    @staticmethod
    async def _begun(session: ShellSession) -> None:
        """Wait until the command has begun. Close a session that says nothing.

        A busy engine may lose the end of a stream whose shell has ended.
        """
        try:
            async with asyncio.timeout(BEGIN_LIMIT_SEC):
                await session.reached(Phase.RUNNING, Phase.DRAINING, Phase.FREE)
        except TimeoutError:
            session.close()

    async def _acquire(self, user: str | None, parser: FrameParser) -> tuple[ShellSession, bool]:
        """Return an idle session, reserved for `parser`, and whether it was opened just now."""
        sessions = self._sessions.setdefault(user, [])
        while True:
            sessions[:] = [session for session in sessions if not session.closed]
            for session in reversed(sessions):
                if session.idle:
                    session.reserve(parser)
                    return session, False
            ending = next((session for session in sessions if session.soon_idle), None)
            if ending is None:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FREE_WAIT_SEC):
                    await ending.changed()
        async with asyncio.timeout(OPEN_LIMIT_SEC):
            session = ShellSession(await self._open(user))
        session.reserve(parser)
        sessions.append(session)
        await session.send(SUPERVISOR)
        return session, True

    async def end_process(self, pid: int) -> None:
        """Send TERM, then KILL, to a session leader, its session and all its descendants."""
        killer, _ = self._parser(secrets.token_hex(16))
        through, _ = await self._acquire(self._root, killer)
        await through.send(kill_request(killer.nonce, pid, TERM_GRACE_SEC))
        await through.reached(Phase.DRAINING, Phase.FREE)

    def end_process_soon(self, pid: int) -> None:
        """Do the same without waiting for it."""
        self._later(self.end_process(pid))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)

    async def _end(self, session: ShellSession, parser: FrameParser) -> None:
        """End the command of `parser`. Close its session if that fails."""
        try:
            async with asyncio.timeout(KILL_LIMIT_SEC):
                await session.reached(Phase.RUNNING, Phase.DRAINING, Phase.FREE)
                if parser.pid is not None and parser.return_code is None:
                    await self.end_process(parser.pid)
                await session.reached(Phase.DRAINING, Phase.FREE)
        except (TimeoutError, EnvironmentLost) as error:
            _log.warning("a command may still run after its end was asked for: %r", error)
        if parser.return_code is None:
            session.close()

    async def aclose(self) -> None:
        """Close all sessions."""
        for task in list(self._cleanups):
            task.cancel()
        for sessions in self._sessions.values():
            for session in sessions:
                session.close()
        self._sessions.clear()
