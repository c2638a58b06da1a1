"""Run proot, and see to it that nothing of it outlives the runner.

Usage: python -I -S launcher.py LIFE_FD UID COMMAND...

LIFE_FD is the read end of a pipe whose write end only the runner has. It closes when the
environment stops or the runner dies, by SIGKILL too. Then every descendant is killed. UID is the
user that the command runs as, or -1 for the current one. The exit code is that of the command, or
128 and its signal.

Every descendant gets a seccomp filter that makes the kernel look like one of 2019, because proot
does not translate paths in newer system calls: `ls` would see the host's files through statx. The C
library falls back to the older calls. The filter also refuses kill(-1), which would reach every
process of the user on this machine, the runner included.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import select
import signal
import struct
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_SECCOMP = 1, 15, 22
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_MODE_FILTER = 2

# Audit architecture, and the numbers of statx, execveat and kill there.
_MACHINES = {"x86_64": (0xC000003E, 332, 322, 62), "aarch64": (0xC00000B7, 291, 281, 129)}
# Everything after rseq, io_pgetevents and the calls for 64-bit time: pidfd_send_signal of Linux 5.1
# and later. Numbers are the same on all machines from here on.
_FIRST_NEW = 424

# Classic BPF (linux/bpf_common.h, linux/seccomp.h) on struct seccomp_data.
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _MACHINE, _ARGUMENT = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x50000
_EPERM, _ENOSYS = 1, 38


def is_supported() -> bool:
    """Return whether the filter is known for this machine."""
    return platform.machine() in _MACHINES


def _filter() -> bytes:
    machine, statx, execveat, kill = _MACHINES[platform.machine()]
    # (operation, operand, lines to skip if true, lines to skip if false)
    program = [
        (_LOAD, _MACHINE, 0, 0),
        (_EQUAL, machine, 0, 8),
        (_LOAD, _NUMBER, 0, 0),
        (_AT_LEAST, _FIRST_NEW, 6, 0),
        (_EQUAL, statx, 5, 0),
        (_EQUAL, execveat, 4, 0),
        (_EQUAL, kill, 0, 4),
        (_LOAD, _ARGUMENT, 0, 0),
        (_EQUAL, 0xFFFFFFFF, 0, 2),
        (_RETURN, _ERRNO | _EPERM, 0, 0),
        (_RETURN, _ERRNO | _ENOSYS, 0, 0),
        (_RETURN, _ALLOW, 0, 0),
    ]
    return b"".join(struct.pack("HBBI", code, yes, no, operand) for code, operand, yes, no in program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: object, more: object = 0) -> None:
    if _libc.prctl(option, argument, more, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def _become(command: list[str], uid: int, parent: int) -> None:
    """Turn this process into the command. Does not return."""
    if uid >= 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    code = _filter()
    _prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(_Program(len(code) // 8, code)))
    os.execvp(command[0], command)


def _descendants() -> list[int]:
    """Return the pids of all descendants of this process."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(folder.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def _kill_all() -> None:
    """Kill all descendants, orphans included (this is their subreaper), and wait for them."""
    while True:
        for pid in _descendants():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def main() -> int:
    life, uid, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    # Not "python3", so that an agent's `pkill python3` does not end it.
    _prctl(_PR_SET_NAME, b"capstan-proot")
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    ended: list[int] = []

    def note(number: int, _frame: object) -> None:
        if number == signal.SIGTERM:
            ended.append(number)

    signal.signal(signal.SIGCHLD, note)
    signal.signal(signal.SIGTERM, note)
    own = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.close(life)
            # Ours, and those that Python ignores.
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            _become(command, uid, own)
        except OSError as error:
            os.write(2, f"{command[0]}: {error}\n".encode())
        os._exit(127)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    code = 128 + signal.SIGKILL
    poll = select.poll()
    poll.register(life, select.POLLIN)
    poll.register(wakeup, select.POLLIN)
    while not ended and child:
        if any(fd == life for fd, _ in poll.poll()):
            break
        os.read(wakeup, 512)
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == child:
                    code = os.waitstatus_to_exitcode(found[1])
                    child = 0
    _kill_all()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
