"""The filter of system calls, in a real process of this machine."""

import platform
import subprocess
import sys

import pytest

from runner.isolation import enter

KNOCK = """
import ctypes, os, subprocess, sys, threading
sys.path.insert(0, {root!r})
from runner.isolation import enter
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
enter.filter_system_calls()
assert libc.unshare(0x10000000) == -1 and ctypes.get_errno() == 1
assert libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == -1 and ctypes.get_errno() == 1
# What any program does goes on: threads, processes, files.
thread = threading.Thread(target=len, args=("x",)); thread.start(); thread.join()
assert subprocess.run(["true"]).returncode == 0
pid = os.fork()
if pid == 0: os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
print("still well")
"""


@pytest.mark.skipif(
    platform.machine() not in enter.MACHINES, reason="no system call numbers for this machine"
)
def test_doors_are_shut_and_programs_run():
    root = __file__.rpartition("/tests/")[0]
    done = subprocess.run([sys.executable, "-c", KNOCK.format(root=root)], capture_output=True, text=True)
    assert done.stdout == "still well\n", done.stderr


@pytest.mark.parametrize("machine", enter.MACHINES)
def test_programs_are_whole_instructions_and_jump_nowhere_else(machine: str):
    code = enter.program(machine)
    assert len(code) % 8 == 0
    count = len(code) // 8
    for number in range(count):
        jump_true, jump_false = code[number * 8 + 2], code[number * 8 + 3]
        assert number + 1 + max(jump_true, jump_false) < count or code[number * 8] == enter.RETURN


def test_the_numbers_are_those_of_this_machines_headers():
    """Each name has one number on a machine, and no two names share one."""
    for column in (0, 1):
        numbers = [pair[column] for pair in enter.REFUSED.values()]
        assert len(set(numbers)) == len(numbers)
