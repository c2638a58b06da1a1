"""Name the process that made a container or a folder, so that leftovers of dead runners are found.

The name holds after a SIGKILL, and is not mistaken after a reboot or when a pid is used again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PREFIX = "capstan-"
"""Start of the names of everything made."""

_OWNER_FILE = "owner"


def _start_time(pid: int) -> str | None:
    """Return the clock ticks from boot to the start of a process; None if it is gone.

    It is field 22 of proc_pid_stat(5).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


@cache
def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "unknown"


def current_owner() -> str:
    """Return the name of this process: `boot id/pid namespace/pid/start time`."""
    return f"{_boot_id()}/{_pid_namespace()}/{os.getpid()}/{_start_time(os.getpid())}"


def is_alive(owner: str) -> bool:
    """Return whether that process still runs; True if it is in another pid namespace."""
    parts = owner.split("/")
    if len(parts) != 4 or not parts[2].isdigit():
        return False
    boot, namespace, pid, start = parts
    if boot != _boot_id():
        return False
    if namespace != _pid_namespace():
        return True
    return _start_time(int(pid)) == start


def owned_directory(prefix: str, *, place: str | None = None) -> Path:
    """Make a temporary folder for this user only, which names its owner. Return its path."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    own(folder)
    return folder


def own(folder: Path) -> None:
    """Name this process as the owner of a folder."""
    # In one step: a sweep sees either no owner, which counts as alive, or the whole name.
    note = folder / f"{_OWNER_FILE}.new"
    note.write_text(current_owner(), encoding="ascii")
    note.rename(folder / _OWNER_FILE)


def remove_orphans(prefix: str, places: Iterable[str] | None = None) -> list[Path]:
    """Remove the folders made with `owned_directory` whose owner is gone. Return them.

    `places` are where to look. Default: the folder for temporary files.
    """
    removed: list[Path] = []
    for place in dict.fromkeys(places or (tempfile.gettempdir(),)):
        for folder in Path(place).glob(f"{prefix}*"):
            try:
                owner = (folder / _OWNER_FILE).read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError):
                continue
            if not is_alive(owner):
                remove_tree(folder)
                removed.append(folder)
    return removed


def remove_tree(root: Path) -> None:
    """Remove the folder of a trial whatever modes its contents have. What cannot be removed stays.

    Nothing above `root` is touched. Two runners may remove the same folder at once.
    """
    shutil.rmtree(root, ignore_errors=True)
    if not root.is_dir() or root.is_symlink():
        return
    # An ordinary user cannot list a folder of mode 000.
    with contextlib.suppress(OSError):
        root.chmod(0o700)
    for folder, names, _ in os.walk(root):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(OSError):
                if not path.is_symlink():
                    path.chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)
