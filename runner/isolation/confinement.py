"""The confinement of an agent inside the isolated runner.

docs/security.md says what each measure is for.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from runner.agents.confinement import AgentWorkdir
from runner.agents.limits import AgentLimits
from runner.agents.package import AgentPackage

RELAY_PORT = 8080
BASE_URL = f"http://127.0.0.1:{RELAY_PORT}"
"""The relay as the agent reaches it, on the loopback of its own network."""

_MIB = 1 << 20
_COPY_BYTES = _MIB
WORK_BYTES = 512 * _MIB
SHARED_BYTES = 64 * _MIB
_WORK_FILES = 50_000
_FIRST_UID, _UIDS = 20_000, 10_000
_WORK, _LOGS, _SOCKET = Path("/work"), Path("/logs"), Path("/relay.sock")
_ENTER = Path(__file__).with_name("enter.py")
_CHILD = Path(sys.modules[AgentPackage.__module__].__file__ or "").with_name("child.py")
# Of /etc what Python, name look-up and TLS read; none of it is a secret.
_ETC = (
    "alternatives",
    "group",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
)
_ETC += ("nsswitch.conf", "passwd", "protocols", "services", "ssl")


class BubblewrapConfinement:
    """Confines each agent with bubblewrap: an unprivileged user, no network but a forwarder to the relay.

    Args:
        relay_socket: Of the inner relay.
        note: Reports which logs had to be left out.
    """

    def __init__(self, relay_socket: Path, note: Callable[[str], None]) -> None:
        self._relay_socket = relay_socket
        self._note = note
        self._numbers = itertools.count()

    @asynccontextmanager
    async def workdir(
        self, package: AgentPackage, *, work_dir: Path, logs_dir: Path, limits: AgentLimits
    ) -> AsyncIterator[AgentWorkdir]:
        """Work and logs on disks in memory, whose size bounds them; the logs are carried to `logs_dir`."""
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
            await asyncio.to_thread(_furnish, package, work, uid)
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
            # Just enough to become somebody with no capability at all, in the next line.
            *("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP", "--"),
            *("/usr/bin/setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"),
            *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
        ]
        enter = (str(python), "-I", "-S", str(_ENTER), str(_SOCKET), str(RELAY_PORT))
        return (*bubblewrap, *enter, str(python), "-I", str(_CHILD))


def _furnish(package: AgentPackage, work: Path, uid: int) -> None:
    root, home = work / "agent", work / "home"
    package.unpack(root)
    home.mkdir()
    for parent, folders, files in os.walk(work):
        for name in (*folders, *files):
            os.chown(Path(parent, name), uid, uid, follow_symlinks=False)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate()
    if process.returncode != 0:
        raise OSError(f"{' '.join(command[:1])}: {complaint.decode('utf-8', 'replace').strip()}")


def copy_logs(source: Path, target: Path, most_bytes: int) -> list[str]:
    """Copies what the agent wrote; a line for each thing left out. A file of ``target`` is never replaced.

    The agent is dead, but what it left is hostile all the same: links are not followed, and a sparse file is
    counted by the size that it would have.
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
                left_out.append(f"the agent's log {shown} was left out: it is no plain file")
            elif entry.st_size > left:
                left_out.append(f"the agent's log {shown} was left out: {entry.st_size} bytes are too many")
            elif os.path.lexists(target / inner / name):
                left_out.append(f"the agent's log {shown} was left out: the runner has a file of that name")
            else:
                left -= entry.st_size
                _copy(file, target / inner / name)
    return left_out


def _copy(source: Path, target: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as reader, target.open("xb") as writer:
        while data := reader.read(_COPY_BYTES):
            writer.write(data)
