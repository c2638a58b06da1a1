"""The runner's side of the protocol: read an agent's messages, answer its calls, notice its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from datetime import datetime

from runner.agents.calls import CallFailed, CallHandler
from runner.agents.limits import AgentLimits
from runner.agents.outcome import Phase
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
    read_context,
)
from runner.results import AgentContext, utc_now


class SessionError(Exception):
    """The agent's process ended, or broke a rule, before it sent `Done`.

    `error_type` is the name of the error in the results.
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


class AgentSession:
    """The exchange of messages with one agent's process.

    Attributes:
        agent: The agent's name and version, once it is constructed.
        context: The values of its context, as last reported.
        constructed, running: Set once the agent is constructed, and once its `run` is called.
        done: The last message. Raises SessionError if the session ended without one.
    """

    def __init__(self, process: asyncio.subprocess.Process, calls: CallHandler, limits: AgentLimits) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._writer, self._reader = process.stdin, process.stdout
        self._calls = calls
        self._limits = limits
        self._pending: dict[int, asyncio.Task[None]] = {}
        self._write_lock = asyncio.Lock()
        self._second, self._messages_in_second = 0, 0
        self.phase: Phase = "construction"
        self.started_at: dict[Phase, datetime] = {"construction": utc_now()}
        self.agent: Constructed | None = None
        self.context = AgentContext()
        self.constructed = asyncio.Event()
        self.running = asyncio.Event()
        self.finished_at: datetime | None = None
        self.done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()

    async def send(self, message: Mapping[str, object]) -> None:
        """Send a message. If the process is gone, `read` notices that, and this raises nothing."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            async with self._write_lock:
                self._writer.write(encode(message))
                await self._writer.drain()

    async def read(self) -> None:
        """Handle messages until the session ends. Sets `done` in any case."""
        try:
            while not self.done.done():
                line = await self._read_line()
                self._check_rate()
                self._handle(line)
        except SessionError as error:
            self.abort(error.error_type, str(error))
        except ProtocolError as error:
            self.abort("AgentProtocolError", str(error))
        except Exception as error:
            self.abort(type(error).__name__, str(error))

    def abort(self, error_type: str, message: str) -> None:
        """End the session with an error, unless it has ended already."""
        if not self.done.done():
            self.finished_at = utc_now()
            self.done.set_exception(SessionError(error_type, message))
            self.done.exception()  # so that asyncio does not warn where nobody awaits it

    def close(self) -> None:
        """Stop answering calls.

        A command in progress goes on, since what it runs may be the solution. It ends with the
        environment at the latest.
        """
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._writer.close()
        self._calls.close()

    async def _read_line(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise ProtocolError(f"it sent a line of more than {self._limits.line_bytes} bytes") from None
        except asyncio.IncompleteReadError:
            raise SessionError("AgentCrashedError", "it closed its connection to the runner") from None
        except ConnectionError:
            raise SessionError("AgentCrashedError", "its connection to the runner broke") from None

    def _check_rate(self) -> None:
        second = int(time.monotonic())
        self._messages_in_second = self._messages_in_second + 1 if second == self._second else 1
        self._second = second
        if self._messages_in_second > self._limits.messages_per_sec:
            raise ProtocolError(f"it sent more than {self._limits.messages_per_sec} messages within a second")

    def _handle(self, line: bytes) -> None:
        match parse(line):
            case Constructed() as agent if self.agent is None:
                self.agent = agent
                self.constructed.set()
            case PhaseBegun(phase="setup") if self.agent is not None and self.phase == "construction":
                self._begin("setup")
            case PhaseBegun(phase="execution") if self.phase == "setup":
                self._begin("execution")
                self.running.set()
            case Call() as call if self.agent is not None:
                self._start(call)
            case Abandon(id=number):
                if task := self._pending.get(number):
                    task.cancel()
            case Figures(figures=values):
                self.context = read_context(values)
            case Done() as done if (done.end == "construction_failed") == (self.agent is None):
                self.finished_at = utc_now()
                self.done.set_result(done)
            case message:
                raise ProtocolError(f"it sent {message.type!r}, which is not allowed at this point")

    def _begin(self, phase: Phase) -> None:
        self.phase = phase
        self.started_at[phase] = utc_now()

    def _start(self, call: Call) -> None:
        if call.id in self._pending:
            raise ProtocolError(f"it used the number {call.id} for two calls at once")
        if len(self._pending) >= self._limits.calls:
            raise ProtocolError(f"it made more than {self._limits.calls} calls at once")
        task = asyncio.create_task(self._answer(call), name=f"agent call {call.method}")
        self._pending[call.id] = task
        task.add_done_callback(lambda _: self._pending.pop(call.id, None))

    async def _answer(self, call: Call) -> None:
        message: dict[str, object] = {"type": "answer", "id": call.id}
        try:
            message["result"] = await self._calls.handle(call.method, call.params)
        except CallFailed as failure:
            message["error"] = failure.wire
        if not self.done.done():
            await self.send(message)
