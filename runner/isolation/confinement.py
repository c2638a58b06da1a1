"""Confine an agent inside the isolated runner. Reasons are in docs/security.md."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from runner.agents.confinement import AgentWorkdir
from runner.agents.limits import AgentLimits
from runner.agents.package import AgentPackage
from runner.environments.rootfs.tree import hand_over
from runner.processes import start_process

RELAY_PORT = 8080
BASE_URL = f"http://127.0.0.1:{RELAY_PORT}"
"""The relay's address for the agent, on the loopback interface of its own network."""

_MIB = 1 << 20
WORK_BYTES = 512 * _MIB
SHARED_BYTES = 64 * _MIB
_WORK_FILES = 50_000
_FIRST_UID, _UIDS = 20_000, 10_000
_WORK, _LOGS, _SOCKET = Path("/work"), Path("/logs"), Path("/relay.sock")
_ENTER = Path(__file__).with_name("enter.py")
_CHILD = Path(sys.modules[AgentPackage.__module__].__file__ or "").with_name("child.py")
# The parts of /etc that Python, name resolution and TLS read. None of them is secret.
_ETC = (
    *("alternatives", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime"),
    *("mime.types", "nsswitch.conf", "passwd", "protocols", "services", "ssl"),
)


class BubblewrapConfinement:
    """Confine each agent with bubblewrap, as an unprivileged user that can reach only the relay.

    `note` is called with one line for each log that was left out.
    """

    def __init__(self, relay_socket: Path, note: Callable[[str], None]) -> None:
        self._relay_socket = relay_socket
        self._note = note
        self._numbers = itertools.count()

    @asynccontextmanager
    async def workdir(
        self, package: AgentPackage, *, work_dir: Path, logs_dir: Path, limits: AgentLimits
    ) -> AsyncGenerator[AgentWorkdir]:
        """Keep the agent's files and logs on a small tmpfs; copy the logs out at the end."""
        uid = _FIRST_UID + next(self._numbers) % _UIDS
        place = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="capstan-confined-"))
        work, logs = place / "work", place / "logs"
        mounted: list[Path] = []
        try:
            await asyncio.to_thread(place.chmod, 0o711)
            for folder, size, files in (
                (work, WORK_BYTES, _WORK_FILES),
                (logs, limits.logs_bytes, limits.log_files),
            ):
                folder.mkdir()
                owned = f"size={size},nr_inodes={files},mode=0700,uid={uid},gid={uid},nosuid,nodev"
                await _run("/usr/bin/mount", "-t", "tmpfs", "-o", owned, "capstan-agent", str(folder))
                mounted.append(folder)
            await asyncio.to_thread(_fill, package, work, uid)
            yield AgentWorkdir(
                root=_WORK / "agent",
                home=_WORK / "home",
                logs_dir=_LOGS,
                host_logs_dir=logs,
                command=self._command(work, logs, uid, package.interpreter),
                cwd=place,
            )
        finally:
            if logs in mounted:
                for line in await asyncio.to_thread(copy_logs, logs, logs_dir, limits.logs_bytes):
                    self._note(line)
            for folder in mounted:
                await _run("/usr/bin/umount", "--lazy", str(folder))
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    def _command(self, work: Path, logs: Path, uid: int, python: Path) -> tuple[str, ...]:
        bubblewrap = [
            *("/usr/bin/bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
            *("--unshare-cgroup-try", "--die-with-parent", "--new-session", "--hostname", "agent"),
            *("--ro-bind", "/usr", "/usr"),
        ]
        for name in ("bin", "sbin", "lib", "lib32", "lib64"):
            system = Path("/", name)
            if system.is_symlink():
                bubblewrap += ["--symlink", str(system.readlink()), str(system)]
            elif system.is_dir():
                bubblewrap += ["--ro-bind", str(system), str(system)]
        bubblewrap += ["--perms", "0755", "--dir", "/etc"]
        for name in (*_ETC, *(path.name for path in Path("/etc").glob("python3*"))):
            bubblewrap += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        bubblewrap += ["--proc", "/proc", "--dev", "/dev"]
        for folder in ("/tmp", "/dev/shm"):
            bubblewrap += ["--perms", "1777", "--size", str(SHARED_BYTES), "--tmpfs", folder]
        bubblewrap += [
            *("--bind", str(work), str(_WORK), "--bind", str(logs), str(_LOGS)),
            *("--ro-bind", str(self._relay_socket), str(_SOCKET)),
            *("--remount-ro", "/", "--chdir", str(_WORK / "agent")),
            # Enough for setpriv, on the next line, to change the user and drop all capabilities.
            *("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP", "--"),
            *("/usr/bin/setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"),
            *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
        ]
        enter = (str(python), "-I", "-S", str(_ENTER), str(_SOCKET), str(RELAY_PORT))
        return (*bubblewrap, *enter, str(python), "-I", str(_CHILD))


def _fill(package: AgentPackage, work: Path, uid: int) -> None:
    package.unpack(work / "agent")
    (work / "home").mkdir()
    hand_over(work, uid, uid)


async def _run(*command: str) -> None:
    process = await start_process(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate()
    if process.returncode != 0:
        raise OSError(f"{' '.join(command[:1])}: {complaint.decode('utf-8', 'replace').strip()}")


def copy_logs(source: Path, target: Path, most_bytes: int) -> list[str]:
    """Copy the agent's logs, and return a line for each that was left out.

    The files are treated as hostile: links are not followed, a sparse file counts with its full
    size, and no file of `target` is replaced. At most `most_bytes` are copied in total.
    """
    left_out: list[str] = []
    left = most_bytes
    for parent, folders, names in os.walk(source):
        inner = Path(parent).relative_to(source)
        folders[:] = sorted(name for name in folders if not Path(parent, name).is_symlink())
        for name in folders:
            (target / inner / name).mkdir(parents=True, exist_ok=True)
        for name in sorted(names):
            file = Path(parent, name)
            entry = file.lstat()
            shown = (inner / name).as_posix()
            if not stat.S_ISREG(entry.st_mode):
                left_out.append(f"the agent's log {shown} was left out: it is not a regular file")
            elif entry.st_size > left:
                left_out.append(
                    f"the agent's log {shown} was left out: {entry.st_size} bytes exceed the limit"
                )
            elif os.path.lexists(target / inner / name):
                left_out.append(f"the agent's log {shown} was left out: the runner wrote a file of that name")
            else:
                left -= entry.st_size
                _copy(file, target / inner / name)
    return left_out


def _copy(source: Path, target: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer)
