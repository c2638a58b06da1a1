"""Starting processes in tasks that are cancelled."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from runner.processes import start_process


@pytest.mark.parametrize("steps", range(12))
async def test_a_cancelled_start_returns_and_leaves_no_process(steps: int, tmp_path: Path) -> None:
    """`steps` is how often the event loop turns before the cancellation: it meets every moment.

    The shell's own child holds the pipes after the shell was killed.
    """
    pipe = asyncio.subprocess.PIPE
    command = ["sh", "-c", "sleep 30 & sleep 30", str(tmp_path)]
    start = asyncio.ensure_future(start_process(*command, stdin=pipe, stdout=pipe, stderr=pipe))
    for _ in range(steps):
        await asyncio.sleep(0)
        time.sleep(0.02)  # the shell starts its child meanwhile
    start.cancel()
    done, _ = await asyncio.wait([start], timeout=15)
    assert done, "the start never returned"
    if not start.cancelled():
        process = start.result()
        process.kill()
        await process.wait()
    assert not await _processes_naming(str(tmp_path))


async def test_a_program_that_does_not_exist_raises_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        await start_process("/nowhere/at-all")


async def _processes_naming(text: str) -> list[str]:
    for _ in range(100):
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if text in path.read_text():
                    found.append(path.parent.name)
            except OSError:  # it has just ended
                continue
        if not found:
            return []
        await asyncio.sleep(0.1)
    return found
