"""Guarded commands: the verifier's files in a mount namespace of its own.

docs/decisions/verifier-protection.md says why, and against what.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import tempfile
from collections.abc import Iterable
from importlib import resources
from typing import BinaryIO

from runner.environments import archive
from runner.environments.base import (
    EnvironmentFailure,
    EnvironmentLost,
    GuardedResult,
    GuardedRun,
    TransferError,
)
from runner.environments.frames import SUPERVISOR, BoundedOutput, FrameParser, Phase, quote, run_request
from runner.environments.shell_session import ShellSessionPool

_log = logging.getLogger(__name__)
_SCRIPT = resources.files("runner.environments").joinpath("guarded.sh").read_text(encoding="utf-8")

SETUP_LIMIT_SEC = 120.0
COLLECT_LIMIT_SEC = 120.0
COLLECT_LIMIT_BYTES = 512 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024

EXTRA_CAPABILITY = "wake_alarm"
"""Given to the guarded command only. Processes without it may not look into
/proc/<pid>/root of its processes (ptrace(2): the caller's capabilities must be a superset of the
target's). It allows only to set timers that wake a sleeping machine."""

_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+\Z")


def guarded_script(nonce: str, run: GuardedRun, *, cwd: str, capabilities: Iterable[str]) -> str:
    """Return the text for `unshare --mount sh -c` that runs one guarded command.

    Raises:
        ValueError: A folder or file that is not an absolute path of plain letters.
        OSError: E2BIG.
    """
    private = list(dict.fromkeys([*run.upload, *run.collect]))
    for path in (*private, *run.executable):
        if not _PLAIN_PATH.match(path):
            raise ValueError(
                f"{path!r}: a guarded path is absolute and of letters, digits, dot, dash and underscore"
            )
    kept = [*capabilities, EXTRA_CAPABILITY]
    # fd 3 is for the results: the command does not get it, and has ended when they are sent.
    inner = (
        SUPERVISOR
        + b"exec 3>&1 1>&2\ncapstan_results() {\n(cd / && tar -c -f - "
        + " ".join(path.lstrip("/") for path in run.collect).encode()
        + b") >&3\nprintf '%s done\\n' \"$1\" >&3\n}\n"
        + run_request(nonce, run.command, cwd, run.env)
    )
    values = {
        "private": " ".join(private),
        "collect": " ".join(run.collect),
        "executable": " ".join(run.executable),
        "capabilities": ",".join(["-all", *(f"+{name}" for name in kept)]),
    }
    words = {name.encode(): quote(value.encode()) for name, value in values.items()}
    lines = [name + b"=" + word for name, word in {**words, b"inner": quote(inner)}.items()]
    return os.fsdecode(b"\n".join(lines)) + "\n" + _SCRIPT


async def run_guarded(
    process: asyncio.subprocess.Process, nonce: str, run: GuardedRun, pool: ShellSessionPool
) -> GuardedResult:
    """Run one guarded command: send its files, read its output, receive the results.

    `process` runs `guarded_script`: stdin takes the uploads, stderr has the framed output, stdout
    the results. `pool` ends the command at its time limit.

    Raises:
        EnvironmentFailure: The private root could not be made; the command did not run.
        EnvironmentLost: The session broke off after the command had begun.
        TransferError: An upload could not be read, or the results are too large.
    """
    uploads, files, framed = process.stdin, process.stdout, process.stderr
    assert uploads is not None and files is not None and framed is not None
    output = BoundedOutput()
    complaint = bytearray()
    parser = FrameParser(nonce, output.add)
    changed = asyncio.Event()

    async def read_output() -> None:
        try:
            while data := await framed.read(_CHUNK_BYTES):
                if parser.phase is Phase.WAITING:
                    complaint.extend(data[: 2000 - len(complaint)])
                before = parser.phase
                parser.feed(data)
                if parser.phase is not before:
                    changed.set()
        finally:
            changed.set()

    reader = asyncio.create_task(read_output())

    async def reach(*phases: Phase) -> None:
        while parser.phase not in phases and not reader.done():
            changed.clear()
            await changed.wait()

    async def begin() -> None:
        with tempfile.TemporaryFile() as spool:
            await asyncio.to_thread(archive.pack_dirs, run.upload, spool)
            spool.seek(0)
            while chunk := spool.read(_CHUNK_BYTES):
                uploads.write(chunk)
                await uploads.drain()
        uploads.close()
        await reach(Phase.RUNNING, Phase.DRAINING, Phase.FREE)

    try:
        try:
            async with asyncio.timeout(SETUP_LIMIT_SEC):
                await begin()
        except (OSError, TimeoutError) as error:
            await asyncio.wait({reader}, timeout=1)
            _log.debug("guarded session: %r", error)
        if parser.phase is Phase.WAITING:
            words = complaint.decode("utf-8", errors="replace").strip().splitlines()
            raise EnvironmentFailure(words[-1] if words else "the privileged process ended at once")
        timed_out = False
        try:
            async with asyncio.timeout(run.timeout_sec):
                await reach(Phase.DRAINING, Phase.FREE)
        except TimeoutError:
            timed_out = parser.return_code is None
            if timed_out and parser.pid is not None:
                await pool.end_process(parser.pid)
        with tempfile.TemporaryFile() as spool:
            try:
                async with asyncio.timeout(COLLECT_LIMIT_SEC):
                    await _receive(files, nonce, spool)
            except TimeoutError:
                raise TransferError(f"the results did not come out within {COLLECT_LIMIT_SEC:g} s") from None
            for folder, target in run.collect.items():
                spool.seek(0)
                await asyncio.to_thread(archive.unpack_dir, spool, target, folder)
        return GuardedResult(output.text(), None if timed_out else parser.return_code, timed_out, "private")
    except asyncio.CancelledError:
        if parser.pid is not None and parser.return_code is None:
            pool.end_process_soon(parser.pid)
        raise
    finally:
        reader.cancel()
        uploads.close()


async def _receive(files: asyncio.StreamReader, nonce: str, spool: BinaryIO) -> None:
    trailer = f"{nonce} done\n".encode()
    size, tail = 0, b""
    while data := await files.read(_CHUNK_BYTES):
        spool.write(data)
        size += len(data)
        tail = (tail + data)[-len(trailer) :]
        if tail == trailer:
            spool.truncate(size - len(trailer))
            return
        if size > COLLECT_LIMIT_BYTES:
            raise TransferError(f"the results are larger than {COLLECT_LIMIT_BYTES} bytes")
    raise EnvironmentLost("the environment ended before the results were out")
