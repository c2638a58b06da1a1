"""One conversation with an agent's process: reads it, answers its calls, and notices how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runner.agents.calls import CallFailed, Calls
from runner.agents.limits import AgentLimits
from runner.agents.outcome import AgentContextFigures, Phase, now
from runner.agents.protocol import (
    Abandon,
    Call,
    Constructed,
    Done,
    Figures,
    PhaseBegun,
    ProtocolError,
    encode,
    parse,
    to_figures,
)

__all__ = ["AgentSession", "SessionBroken"]


class SessionBroken(Exception):
    """The process ended, or broke a rule, before it had said how its run went."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class AgentSession:
    """Reads until the process has said `Done`, or broke off.

    Attributes:
        phase, began: where it is, and when each phase began.
        introduced: what the agent told of itself once it was constructed.
        figures: its latest figures.
        constructed, running: set when the phase before them is over.
        ended: the last message; raises SessionBroken where there is none.
        finished: when that was.
    """

    def __init__(self, process: asyncio.subprocess.Process, calls: Calls, limits: AgentLimits) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._writer, self._reader = process.stdin, process.stdout
        self._calls = calls
        self._limits = limits
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._writing = asyncio.Lock()
        self._second, self._in_second = 0, 0
        self.phase: Phase = "construction"
        self.began = {"construction": now()}
        self.introduced: Constructed | None = None
        self.figures = AgentContextFigures()
        self.constructed = asyncio.Event()
        self.running = asyncio.Event()
        self.finished: datetime | None = None
        self.ended: asyncio.Future[Done] = asyncio.get_running_loop().create_future()

    async def send(self, message: Mapping[str, Any]) -> None:
        """A process that is gone, or does not listen, is noticed where it is read."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            async with self._writing:
                self._writer.write(encode(message))
                await self._writer.drain()

    async def read(self) -> None:
        """Runs until the end; sets `ended` in any case."""
        try:
            while not self.ended.done():
                line = await self._line()
                self._count()
                self._take(line)
        except SessionBroken as broken:
            self.break_off(broken.kind, str(broken))
        except ProtocolError as error:
            self.break_off("AgentProtocolError", str(error))
        except Exception as error:
            self.break_off(type(error).__name__, str(error))

    def break_off(self, kind: str, message: str) -> None:
        """Ends the session from this side."""
        if not self.ended.done():
            self.finished = now()
            self.ended.set_exception(SessionBroken(kind, message))
            self.ended.exception()  # whether anybody asks is not asyncio's concern

    def leave(self) -> None:
        """Stops answering. A command under way goes on: what it runs may be the deliverable.

        Its task ends with the environment at the latest; nothing reads its result.
        """
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._writer.close()
        self._calls.close()

    async def _line(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise ProtocolError(
                f"it wrote a line of more than {self._limits.line_bytes} bytes into its channel"
            ) from None
        except asyncio.IncompleteReadError:
            raise SessionBroken("AgentCrashedError", "it closed its channel to the runner") from None
        except ConnectionError:
            raise SessionBroken("AgentCrashedError", "its channel to the runner broke") from None

    def _count(self) -> None:
        second = int(time.monotonic())
        self._in_second = self._in_second + 1 if second == self._second else 1
        self._second = second
        if self._in_second > self._limits.messages_per_sec:
            raise ProtocolError(f"it sent more than {self._limits.messages_per_sec} messages within a second")

    def _take(self, line: bytes) -> None:
        match parse(line):
            case Constructed() as introduced if self.introduced is None:
                self.introduced = introduced
                self.constructed.set()
            case PhaseBegun(phase="setup") if self.introduced is not None and self.phase == "construction":
                self._begin("setup")
            case PhaseBegun(phase="execution") if self.phase == "setup":
                self._begin("execution")
                self.running.set()
            case Call() as call if self.introduced is not None:
                self._start(call)
            case Abandon(id=number):
                if task := self._under_way.get(number):
                    task.cancel()
            case Figures(figures=claimed):
                self.figures = to_figures(claimed)
            case Done() as done if (done.end == "construction_failed") == (self.introduced is None):
                self.finished = now()
                self.ended.set_result(done)
            case message:
                raise ProtocolError(f"it sent {message.type!r} where that has no place")

    def _begin(self, phase: Phase) -> None:
        self.phase = phase
        self.began[phase] = now()

    def _start(self, call: Call) -> None:
        if call.id in self._under_way:
            raise ProtocolError(f"it used the number {call.id} for two calls at once")
        if len(self._under_way) >= self._limits.calls:
            raise ProtocolError(f"it had more than {self._limits.calls} calls under way at once")
        task = asyncio.create_task(self._answer(call), name=f"agent call {call.method}")
        self._under_way[call.id] = task
        task.add_done_callback(lambda _: self._under_way.pop(call.id, None))

    async def _answer(self, call: Call) -> None:
        try:
            result = await self._calls.answer(call.method, call.params)
            message = {"type": "answer", "id": call.id, "result": result}
        except CallFailed as failure:
            message = {"type": "answer", "id": call.id, "error": failure.wire}
        if not self.ended.done():
            await self.send(message)
