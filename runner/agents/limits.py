"""The limits on an agent's process, and the control groups that enforce them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "capstan-agent-"
_MIB = 1 << 20


@dataclass(frozen=True)
class AgentLimits:
    """Limits on one agent. Exceeding one fails that trial only.

    Attributes:
        construction_sec: Import and construction together, in seconds.
        grace_sec: Seconds between cancellation and kill. A run that returns within them counts.
        line_bytes: The longest message.
        messages_per_sec: The most messages within a second.
        calls: Commands and transfers at once.
        transfer_bytes: The largest file or folder to upload or download.
        output_bytes: How much of stdout and stderr is logged. The rest is dropped.
        logs_bytes, log_files: Everything that the agent writes into its log folder.
        processes: Processes and threads of the agent and its subprocesses.
        memory_bytes: Memory of all its processes.
        file_bytes: The largest single file.
        open_files: File descriptors per process.
    """

    construction_sec: float = 60.0
    grace_sec: float = 4.0
    line_bytes: int = _MIB
    messages_per_sec: int = 2000
    calls: int = 256
    transfer_bytes: int = 1024 * _MIB
    output_bytes: int = _MIB
    logs_bytes: int = 512 * _MIB
    log_files: int = 10_000
    processes: int = 256
    memory_bytes: int = 2048 * _MIB
    file_bytes: int = 1024 * _MIB
    open_files: int = 4096

    def rlimits(self, groups: ControlGroups) -> dict[str, int]:
        """Return the limits of each process, by the name of the constant in `resource`.

        They replace control groups that could not be created: the address space is limited instead
        of the memory, and the processes of the user instead of the agent's. The kernel does not
        apply the latter to root, but the guard counts processes in any case.
        """
        limits = {
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.open_files,
        }
        if not groups.has_limit("memory"):
            # Thread stacks and mapped files take address space but no memory.
            limits["RLIMIT_AS"] = 2 * self.memory_bytes
        if not groups.has_limit("pids") and os.geteuid() != 0:
            limits["RLIMIT_NPROC"] = _threads_of_user() + self.processes
        return limits


class ControlGroups:
    """The control groups of one agent: pids and memory, version 1 or 2.

    Where they cannot be created there are none.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths

    @classmethod
    def create(cls, limits: AgentLimits) -> ControlGroups:
        """Create the groups that this machine allows, with the limits set."""
        name = f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:12]}"
        settings = {"pids.max": limits.processes}
        paths: list[Path] = []
        if (_ROOT / "cgroup.controllers").is_file():
            settings |= {"memory.max": limits.memory_bytes, "memory.swap.max": 0}
            paths += _create_group(_ROOT / name, settings)
        else:
            paths += _create_group(_ROOT / "pids" / name, settings)
            paths += _create_group(_ROOT / "memory" / name, {"memory.limit_in_bytes": limits.memory_bytes})
        return cls(tuple(paths))

    @property
    def procs_files(self) -> list[str]:
        """The files that a process writes itself to in order to join."""
        return [str(path / "cgroup.procs") for path in self._paths]

    def has_limit(self, resource: Literal["pids", "memory"]) -> bool:
        """Return whether the groups limit a resource."""
        return any((path / name).exists() for path in self._paths for name in _FILES[resource])

    def oom_kills(self) -> int:
        """Return how many processes in the groups the kernel killed for lack of memory."""
        for path in self._paths:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError, ValueError):
                    for line in (path / name).read_text().splitlines():
                        if line.startswith("oom_kill "):
                            return int(line.split()[1])
        return 0

    async def close(self) -> None:
        """Kill the processes left in the groups, and remove the groups."""
        for path in self._paths:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    for pid in (path / "cgroup.procs").read_text().split():
                        with contextlib.suppress(OSError):
                            os.kill(int(pid), signal.SIGKILL)
                try:
                    path.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    await asyncio.sleep(0.02)


def remove_stale_groups() -> list[Path]:
    """Remove the empty groups of runners that were killed. Return the removed ones."""
    removed: list[Path] = []
    for root in (_ROOT, _ROOT / "pids", _ROOT / "memory"):
        for path in root.glob(f"{_PREFIX}*"):
            owner = path.name.removeprefix(_PREFIX).split("-")[0]
            if owner.isdigit() and not Path("/proc", owner).exists():
                with contextlib.suppress(OSError):
                    path.rmdir()
                    removed.append(path)
    return removed


_FILES = {"pids": ("pids.max",), "memory": ("memory.max", "memory.limit_in_bytes")}


def _threads_of_user() -> int:
    count = 0
    for path in Path("/proc").glob("[0-9]*/task"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == os.geteuid():
                count += sum(1 for _ in path.iterdir())
    return count


def _create_group(path: Path, settings: dict[str, int]) -> list[Path]:
    """Create a group. Return it if at least one setting could be made, else nothing."""
    with contextlib.suppress(OSError):
        path.mkdir()
    limited = False
    for name, value in settings.items():
        with contextlib.suppress(OSError):
            if (path / name).exists():
                (path / name).write_text(str(value))
                limited = True
    if limited:
        return [path]
    with contextlib.suppress(OSError):
        path.rmdir()
    return []
