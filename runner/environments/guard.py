"""Guarded commands: the verifier's files in a mount namespace of its own.

docs/decisions/verifier-protection.md says why, and against what.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import BinaryIO, Protocol

from runner.environments import archive
from runner.environments.base import (
    EnvironmentFailure,
    EnvironmentLost,
    GuardedResult,
    GuardedRun,
    TransferError,
)
from runner.environments.frames import BoundedOutput, FrameParser, Phase, environment_words, quote
from runner.environments.shell_session import ShellSessionPool

_log = logging.getLogger(__name__)
_FILES = resources.files("runner.environments")
_OUTER = _FILES.joinpath("guarded.sh").read_text(encoding="utf-8")
_INNER = _FILES.joinpath("guarded_inner.sh").read_text(encoding="utf-8")

SETUP_LIMIT_SEC = 120.0
COLLECT_LIMIT_SEC = 120.0
COLLECT_LIMIT_BYTES = 512 * 1024 * 1024

EXTRA_CAPABILITY = "wake_alarm"
"""Given to the guarded command only. Processes without it may not look into
/proc/<pid>/root of its processes (ptrace(2): the caller's capabilities must be a superset of the
target's). It allows only to set timers that wake a sleeping machine."""

_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+\Z")


class GuardUnavailable(EnvironmentFailure):
    """A private root cannot be made here. The message says what is missing."""


class GuardStreams(Protocol):
    """The three streams of one privileged process."""

    async def send(self, data: bytes) -> None: ...
    async def finish_input(self) -> None: ...
    async def output(self) -> bytes: ...
    async def files(self) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """The user who runs the command, if not root."""

    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class GuardedScript:
    """The text for `sh -c` and the nonce of its frames."""

    nonce: str
    text: str


def guarded_script(
    run: GuardedRun,
    *,
    cwd: str,
    capabilities: Iterable[str],
    identity: Identity | None = None,
    no_new_privs: bool = False,
) -> GuardedScript:
    """Build the script of one guarded command.

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
    nonce = secrets.token_hex(16)
    environment = dict(run.env)
    launch = '$capstan_setsid $capstan_shell -c "$command"'
    if identity is not None:
        environment.setdefault("HOME", identity.home)
        carried = f"--inh-caps=+{EXTRA_CAPABILITY} --ambient-caps=+{EXTRA_CAPABILITY}"
        launch = f"setpriv --reuid={identity.uid} --regid={identity.gid} --init-groups {carried} {launch}"
    command, variables, by_export = environment_words(run.command, environment)
    words = b" ".join(map(quote, variables)).decode("utf-8", errors="surrogateescape")
    if words and by_export:
        launch = f"export {words}\nexec {launch}"
    else:
        launch = f"exec env {words} {launch}" if words else f"exec {launch}"
    inner = _assignments(
        nonce=nonce,
        cwd=cwd,
        command=command.decode("utf-8", errors="surrogateescape"),
        collected=" ".join(path.lstrip("/") for path in run.collect),
    )
    outer = _assignments(
        private=" ".join(private),
        collect=" ".join(run.collect),
        executable=" ".join(run.executable),
        capabilities=",".join(["-all", *(f"+{name}" for name in kept)]),
        no_new_privs="--no-new-privs" if no_new_privs else "",
        inner=f"{inner}capstan_launch() {{\n{launch}\n}}\n{_INNER}",
    )
    return GuardedScript(nonce, outer + _OUTER)


def _assignments(**values: str) -> str:
    lines = [
        name
        + "="
        + quote(value.encode("utf-8", errors="surrogateescape")).decode("utf-8", errors="surrogateescape")
        for name, value in values.items()
    ]
    return "\n".join(lines) + "\n"


async def run_guarded(
    session: GuardStreams, script: GuardedScript, run: GuardedRun, pool: ShellSessionPool
) -> GuardedResult:
    """Run one guarded command: send its files, read its output, keep the time limit, receive the
    results.

    Raises:
        GuardUnavailable: The private root could not be made; the command did not run.
        EnvironmentLost: The session broke off after the command had begun.
        TransferError: An upload could not be read, or the results are too large.
    """
    output = BoundedOutput()
    complaint = bytearray()
    parser = FrameParser(script.nonce, output.add)
    changed = asyncio.Event()

    async def read_output() -> None:
        try:
            while data := await session.output():
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
            while chunk := spool.read(256 * 1024):
                await session.send(chunk)
        await session.finish_input()
        await reach(Phase.RUNNING, Phase.DRAINING)

    try:
        try:
            async with asyncio.timeout(SETUP_LIMIT_SEC):
                await begin()
        except (OSError, TimeoutError) as error:
            await asyncio.wait({reader}, timeout=1)
            _log.debug("guarded session: %r", error)
        if parser.phase is Phase.WAITING:
            words = complaint.decode("utf-8", errors="replace").strip().splitlines()
            raise GuardUnavailable(words[-1] if words else "the privileged process ended at once")
        timed_out = False
        try:
            async with asyncio.timeout(run.timeout_sec):
                await reach(Phase.DRAINING)
        except TimeoutError:
            timed_out = parser.return_code is None
            if timed_out and parser.pid is not None:
                await pool.end_process(parser.pid)
        with tempfile.TemporaryFile() as spool:
            try:
                async with asyncio.timeout(COLLECT_LIMIT_SEC):
                    await _receive(session, script.nonce, spool)
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
        session.close()


async def _receive(session: GuardStreams, nonce: str, spool: BinaryIO) -> None:
    trailer = f"{nonce} done\n".encode()
    size, tail = 0, b""
    while data := await session.files():
        spool.write(data)
        size += len(data)
        tail = (tail + data)[-len(trailer) :]
        if tail == trailer:
            spool.truncate(size - len(trailer))
            return
        if size > COLLECT_LIMIT_BYTES:
            raise TransferError(f"the results are larger than {COLLECT_LIMIT_BYTES} bytes")
    raise EnvironmentLost("the environment ended before the results were out")
