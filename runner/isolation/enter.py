"""Start a confined agent: filter system calls, forward a port to the relay, then exec.

Run as `python -I -S enter.py SOCKET PORT COMMAND…`. Uses the standard library only.
"""

# ruff: noqa: PTH118, PTH120

import ctypes
import errno
import os
import platform
import signal
import struct
import sys

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
# BPF (linux/bpf_common.h): load a word of seccomp_data, compare, return.
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
NEW_NAMESPACES = 0x7E020000  # all CLONE_NEW… flags of clone(2)
FOREIGN_ABI = 0x40000000  # x32 on x86-64

# System calls that no agent needs and that kernel exploits have used: mounts, namespaces, tracing,
# keys, BPF, io_uring. Numbers for x86-64 and arm64, from asm/unistd.h.
REFUSED = {
    "ptrace": (101, 117),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "acct": (163, 89),
    "mount": (165, 40),
    "umount2": (166, 39),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "quotactl": (179, 60),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "finit_module": (313, 273),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
}
MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}  # column, audit number, clone(2)
CLONE3 = 435


def main() -> None:
    socket_path, port, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    filter_system_calls()
    readable, writable = os.pipe()
    if os.fork() == 0:
        forward(socket_path, port, writable)
    os.close(writable)
    if not os.read(readable, 1):
        sys.exit("the relay cannot be offered on loopback")
    os.close(readable)
    environ = {name: value for name, value in os.environ.items() if name != "PWD"}  # set by bubblewrap
    os.execve(command[0], command, environ)


def program(machine: str) -> bytes:
    """Return the filter as BPF instructions. Raises KeyError for an unknown machine."""
    column, audit, clone = MACHINES[machine]
    refuse = struct.pack("<HBBI", RETURN, 0, 0, REFUSE | errno.EPERM)
    absent = struct.pack("<HBBI", RETURN, 0, 0, REFUSE | errno.ENOSYS)
    allow = struct.pack("<HBBI", RETURN, 0, 0, ALLOW)

    def load(offset: int) -> bytes:
        return struct.pack("<HBBI", LOAD, 0, 0, offset)

    def unless(comparison: int, value: int, skip: int = 1) -> bytes:
        """Skip the next `skip` instructions unless the comparison holds."""
        return struct.pack("<HBBI", comparison, 0, skip, value)

    parts = [load(ARCHITECTURE), struct.pack("<HBBI", EQUAL, 1, 0, audit), refuse]
    parts += [load(NUMBER), unless(AT_LEAST, FOREIGN_ABI), refuse]
    for numbers in REFUSED.values():
        parts += [unless(EQUAL, numbers[column]), refuse]
    # clone3 takes its flags in memory, which a filter cannot read. Without it, the C library calls
    # clone.
    parts += [unless(EQUAL, CLONE3), absent]
    parts += [unless(EQUAL, clone, 3), load(FIRST_ARGUMENT), unless(ANY_BIT, NEW_NAMESPACES), refuse, allow]
    return b"".join(parts)


def filter_system_calls() -> None:
    """Refuse the system calls above to this process and its descendants. Needs no_new_privs."""
    try:
        code = program(platform.machine())
    except KeyError:
        return
    buffer = ctypes.create_string_buffer(code)
    described = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(described), 0, 0) != 0:
        sys.exit(f"system calls cannot be filtered: {os.strerror(ctypes.get_errno())}")


def forward(socket_path: str, port: str, ready: int) -> None:
    """Become the forwarder. It writes to `ready` once it listens. Never returns."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 0)
    os.dup2(ready, 1)
    os.dup2(quiet, 2)
    os.closerange(3, 64)
    forwarder = os.path.join(os.path.dirname(__file__), "..", "relay", "forwarder.py")
    arguments = ("--listen", f"127.0.0.1:{port}", "--socket", socket_path)
    os.execve(sys.executable, [sys.executable, "-I", "-S", forwarder, *arguments], {})


if __name__ == "__main__":
    main()
