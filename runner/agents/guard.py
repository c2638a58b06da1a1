"""The program between the runner and an agent: start it under limits, and end all its processes.

`python guard.py STATUS_FILE LIMITS_JSON COMMAND…` uses the standard library only. It makes itself
the reaper of all orphans below it, and starts COMMAND under its limits, in its control groups and
in a session of its own. It waits until COMMAND ends or stops, has too many processes, or until the
runner sends SIGTERM or dies. Then it kills all descendants, even detached ones, and writes how
COMMAND ended to STATUS_FILE: `{"code": int | null, "signal": int | null, "reason": str | null}`.
"""

# pathlib would double the start-up time, and this program starts with every trial.
# ruff: noqa: PTH105, PTH123, PTH208

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from typing import NoReturn, TypedDict

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_SEC = 0.5
KILL_ATTEMPTS = 200
ENDED_BY_RUNNER = "the runner ended it"


class Limits(TypedDict):
    """The limits of one agent, and the process ID of the runner."""

    runner: int
    groups: list[str]  # the files that a process writes itself to in order to join
    rlimits: dict[str, int]  # by the name of the constant in `resource`
    processes: int  # and threads


class Status(TypedDict):
    """How the command ended: with `code`, by `signal`, or because the guard had a `reason`."""

    code: int | None
    signal: int | None
    reason: str | None


def main() -> int:
    status_path, command = sys.argv[1], sys.argv[3:]
    limits: Limits = json.loads(sys.argv[2])
    signals = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != limits["runner"]:
        return 1  # the runner died before the line above
    child = os.fork()
    if child == 0:
        run(command, limits, signals)
    devnull = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # a copy in here would hide the end of the agent's pipes from the runner
        os.dup2(devnull, fd)
    status = watch(child, signals, limits["processes"])
    kill_descendants()
    partial = status_path + ".partial"
    with contextlib.suppress(OSError):
        with open(partial, "w") as file:
            json.dump(status, file)
        os.replace(partial, status_path)
    return 0


def run(command: list[str], limits: Limits, signals: set[signal.Signals]) -> NoReturn:
    """Apply the limits to this process, the forked child, and replace it with the command."""
    try:
        os.setsid()
        for group in limits["groups"]:
            with contextlib.suppress(OSError), open(group, "w") as members:
                members.write("0")
        for name, value in limits["rlimits"].items():
            number = getattr(resource, name)
            _, hard = resource.getrlimit(number)
            limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (limit, limit))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        os.execv(command[0], command)
    except BaseException as error:
        os.write(2, f"cannot start {command[0]}: {error}\n".encode())
    os._exit(127)


def watch(child: int, signals: set[signal.Signals], processes: int) -> Status:
    """Wait until the child ends, or until there is a reason to end it."""
    while True:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                pid, status = 0, 0
            if pid == 0:
                break
            if pid == child and os.WIFSTOPPED(status):
                return {"code": None, "signal": None, "reason": "it was stopped by a signal"}
            if pid == child and os.WIFSIGNALED(status):
                return {"code": None, "signal": os.WTERMSIG(status), "reason": None}
            if pid == child:
                return {"code": os.WEXITSTATUS(status), "signal": None, "reason": None}
        if len(descendants()) > processes:
            return {"code": None, "signal": None, "reason": f"it had more than {processes} processes"}
        caught = signal.sigtimedwait(signals, POLL_SEC)
        if caught is not None and caught.si_signo != signal.SIGCHLD:
            return {"code": None, "signal": None, "reason": ENDED_BY_RUNNER}


def descendants() -> list[int]:
    """Return all processes below this one. Orphans stay below it, because it is their reaper."""
    pids: list[int] = []
    parents = [os.getpid()]
    while parents:
        pid = parents.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
                    children = [int(number) for number in file.read().split()]
                    pids += children
                    parents += children
    return pids


def kill_descendants() -> None:
    """Kill all descendants. First stop them, so that none can fork while others are killed."""
    for attempt in range(KILL_ATTEMPTS):
        pids = descendants()
        for sign in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, sign)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not pids:
            return
        if attempt > 2:
            time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
