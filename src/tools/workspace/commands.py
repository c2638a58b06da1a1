"""Commands in the foreground: run, query, stop."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from typing import Any

from src.tools.workspace.channel import Channel, Kit, KitError, Reply, ReportLost
from src.tools.workspace.codec import encode, to_bytes
from src.tools.workspace.errors import EnvironmentGone, WorkspaceError
from src.tools.workspace.files import FileTransfer
from src.tools.workspace.models import CommandResult
from src.tools.workspace.transfer import Uploader

DEFAULT_CLIP = 64 * 1024
GRACE_SEC = 2.0  # between TERM and KILL at the limit; run.sh and jobs.sh count the same
BACKSTOP_SEC = 15.0  # what the environment's own limit lies above ours
STOP_SEC = 1.0  # how long a cancelled command may take to stop
OUTPUT_CAP = 1 << 30  # bytes: a command that prints more is ended; kept outputs together, too
KEPT_MOST = 500  # outputs
QUERY_CAP = 64 << 20
DROP_MOST = 200  # files of queries that one command removes
TICK_SEC = 2
# Nothing tells the two apart from outside: what would have told is in that directory, too.
LOST_OUTPUT = b"[the output is lost: the command never began, or it deleted the scratch directory]\n"


class Commands:
    """Runs commands with a limit that is enforced in the container, and keeps their output there."""

    def __init__(
        self, channel: Channel, uploader: Uploader, transfer: FileTransfer, log: logging.Logger
    ) -> None:
        self._channel = channel
        self._uploader = uploader
        self._transfer = transfer
        self._log = log
        self._numbers = 0
        self._running: set[str] = set()
        self._kept: OrderedDict[str, int] = OrderedDict()
        self._spent: list[str] = []
        self._stops: set[asyncio.Task[Any]] = set()

    async def run(self, command: str, *, cwd: str | None, limit_sec: float, clip: int) -> CommandResult:
        """One command to its end or its limit. `cwd` is resolved; see Workspace.run."""
        script = _script_bytes(command)
        clip = max(2, clip)
        asked = -(-clip // 8192) * 8192
        number = self._number("c")
        started = time.monotonic()
        reply, ended = await self._launch(
            number, "command", script, (), cwd=cwd, limit_sec=limit_sec, clip=asked, cap=OUTPUT_CAP
        )
        output_path = f"{self._channel.kit.scratch}/{number}.out"
        code, total, timed_out, overflowed = _parse(reply)
        if not reply.complete:
            data = await self._refetch(output_path, total, asked)
        else:
            data = reply.data
        head, tail = _ends(data, total, asked, clip)
        if total < 0:
            total, head = 0, LOST_OUTPUT
        self._kept[number] = total
        return CommandResult(
            exit_code=code,
            head=head,
            tail=tail,
            total_bytes=total,
            output_path=output_path,
            timed_out=timed_out or ended,
            limit_sec=limit_sec,
            duration_sec=time.monotonic() - started,
            overflowed=overflowed,
        )

    async def query(self, script: str, args: Sequence[str], limit_sec: float) -> bytes:
        """The exact stdout of a helper script run by sh. Raises WorkspaceError unless it exits with 0."""
        number = self._number("q")
        clip = 1 << 20
        reply, ended = await self._launch(
            number,
            "query",
            _script_bytes(script),
            tuple(args),
            cwd=None,
            limit_sec=limit_sec,
            clip=clip,
            cap=QUERY_CAP,
        )
        code, total, timed_out, overflowed = _parse(reply)
        path = f"{self._channel.kit.scratch}/{number}"
        try:
            if timed_out or ended:
                raise WorkspaceError(f"a helper script took longer than {limit_sec:g} s")
            if overflowed or total > QUERY_CAP:
                raise WorkspaceError(f"a helper script printed more than {QUERY_CAP >> 20} MiB")
            if code != 0:
                said = await self._transfer.read(f"{path}.err", 0, 2000)
                text = " ".join(said.decode("utf-8", "replace").split())
                raise WorkspaceError(text or f"a helper script ended with exit code {code}")
            if reply.complete and total <= clip:
                return reply.data
            return await self._transfer.read(f"{path}.out", 0, total)
        finally:
            self._spent.append(number)

    async def stop(self) -> None:
        """Ends all running commands, within about a second. Never raises."""
        if self._running and self._channel.is_open:
            await self._stop(tuple(self._running))

    async def _launch(
        self,
        number: str,
        kind: str,
        script: bytes,
        args: tuple[str, ...],
        *,
        cwd: str | None,
        limit_sec: float,
        clip: int,
        cap: int,
    ) -> tuple[Reply, bool]:
        """The report of a command, and whether it had to be stopped because no report came."""
        ticks = int(max(0.0, limit_sec - TICK_SEC) // TICK_SEC)
        first = f"{limit_sec - ticks * TICK_SEC:.3f}".rstrip("0").rstrip(".")
        fixed = ("run", number, kind, first, str(ticks), str(clip), str(cap), cwd or "", self._drop())
        inline = len(script) <= self._channel.room(*fixed, *args)
        if not inline:
            async with self._uploader.staged(script, native=False) as upload:
                await self._transfer.join(
                    f"{self._channel.kit.scratch}/{number}.cmd", len(script), upload, None
                )

        def arguments(kit: Kit) -> tuple[str, ...]:
            return (*fixed, encode(script, kit.unpack) if inline else "@", *args)

        self._running.add(number)
        try:
            try:
                reply = await self._channel.call_with(
                    arguments, timeout_sec=limit_sec + GRACE_SEC + BACKSTOP_SEC, again=inline
                )
                return reply, False
            except KitError as error:
                raise WorkspaceError(start_refusal(error, cwd)) from None
            except ReportLost as error:
                self._log.warning("a command's report was lost (%s); collecting what it left", error)
                return await self._recover(number, clip)
        except asyncio.CancelledError:
            await self._bounded(self._stop((number,)))
            raise
        finally:
            self._running.discard(number)

    async def _recover(self, number: str, clip: int) -> tuple[Reply, bool]:
        """After an exec that did not report: end what still runs, and take what is there."""
        reply = await self._channel.call("collect", number, str(clip), again=False)
        if reply.fields[0] != "-":
            return reply, False
        await self._channel.call("stop", "10", number, again=False)
        reply = await self._channel.call("collect", number, str(clip), again=False)
        return reply, True

    async def _stop(self, numbers: tuple[str, ...]) -> None:
        try:
            await self._channel.call("stop", "2", *numbers, timeout_sec=10.0, again=False)
        except EnvironmentGone:
            pass
        except Exception as error:
            self._log.warning("could not stop a command: %s", error)

    async def _bounded(self, work: Coroutine[Any, Any, None]) -> None:
        """Gives the work its second; it goes on behind our back if it needs more."""
        task = asyncio.ensure_future(work)
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)
        await asyncio.wait({task}, timeout=STOP_SEC)

    async def _refetch(self, path: str, total: int, clip: int) -> bytes:
        """The ends of an output whose report was cut off on its way."""
        if total <= clip:
            return await self._transfer.read(path, 0, max(total, 0))
        head = await self._transfer.read(path, 0, clip // 2)
        return head + await self._transfer.read(path, total - clip // 2, clip // 2)

    def _number(self, prefix: str) -> str:
        self._numbers += 1
        return f"{prefix}{self._numbers}"

    def _drop(self) -> str:
        """What queries left and the oldest outputs that no longer fit, for the next command to remove."""
        dropped, self._spent = self._spent[:DROP_MOST], self._spent[DROP_MOST:]
        while len(self._kept) > 1 and (sum(self._kept.values()) > OUTPUT_CAP or len(self._kept) > KEPT_MOST):
            dropped.append(self._kept.popitem(last=False)[0])
        return " ".join(dropped)


def _script_bytes(command: str) -> bytes:
    if "\0" in command:
        raise WorkspaceError("the command holds a NUL byte, which no shell can run")
    return to_bytes(command)


def _parse(reply: Reply) -> tuple[int | None, int, bool, bool]:
    code, total, timed_out, overflowed = reply.fields
    return (None if code == "-" else int(code)), int(total), timed_out == "1", overflowed == "1"


def _ends(data: bytes, total: int, asked: int, clip: int) -> tuple[bytes, bytes]:
    """Head and tail of at most `clip` bytes, from the whole or from two halves of `asked`."""
    if total <= asked:
        data = data[: max(total, 0)]
        if len(data) <= clip:
            return data, b""
        front, back = data, data
    else:
        front, back = data[: asked // 2], data[asked // 2 :]
    half = clip // 2
    return front[: clip - half], back[-half:]


def start_refusal(error: KitError, cwd: str | None) -> str:
    """Why a command could not be started, in words for the model."""
    match error.code:
        case "missing":
            return f"no such directory: {cwd}"
        case "notdir":
            return f"cannot enter {cwd}: not a directory, or no permission"
        case "disk":
            return "the container's scratch folder cannot be written: the disk may be full"
        case _:
            return str(error)


def limit_for(asked: float | None, default: float, most: float) -> float:
    """The limit of a command in seconds: what was asked for, within 0.1 s and the most there is."""
    value = default if asked is None or not math.isfinite(asked) else asked
    return min(max(value, 0.1), most)
