"""The Ray task of a trial: it holds the trial's resources, and passes on what the node runner says.

It waits on a socket rather than in `ray.get`, because Ray lets others have the CPUs of a task that
waits there. It imports little, since each running trial has a process with it.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import ray

START_SEC = 60.0
_POLL_SEC = 0.05


def node_folder(prefix: str, node_id: str) -> Path:
    """Return the folder of the node runner of a node, on that node."""
    return Path(tempfile.gettempdir(), f"{prefix}{node_id[:12]}")


def hold_trial(prefix: str, request: bytes) -> Generator[bytes]:
    """Run the trial of a request on this node, and yield each frame of the answer.

    Args:
        prefix: The start of the names of the node runners' folders.
        request: The frame with `RunTrial`.

    Raises:
        OSError: The node runner did not start, or went away.
    """
    folder = node_folder(prefix, ray.get_runtime_context().get_node_id())
    with _connected(str(folder / "runner.sock")) as connection, connection.makefile("rb") as stream:
        connection.sendall(request)
        while head := stream.readline():
            text = stream.readline()
            yield head + text + stream.read(int(head))


def _connected(path: str) -> socket.socket:
    """Connect, once the node runner is there: a node may have joined a moment ago."""
    deadline = time.monotonic() + START_SEC
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
            return connection
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SEC)
