"""The folder that both sides of an isolated run share, with sockets, the submission and logs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator
from pathlib import Path

from runner.environments.owner import owned_directory, remove_orphans

INSIDE = Path("/run/capstan")
_PREFIX = "capstan-dind-"


class SharedDir:
    """The folder's files, on the side on which `root` lies.

    `relay` is the unix socket of the relay that holds the key, `engine` that of the inner engine,
    and over `control` the two sides exchange messages (link.py).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.relay = root / "relay.sock"
        self.engine = root / "docker.sock"
        self.control = root / "control.sock"
        self.submission = root / "agent.zip"
        self.engine_log = root / "dockerd.log"
        self.inside_log = root / "inside.log"


@contextlib.contextmanager
def open_shared_dir() -> Generator[SharedDir]:
    """Make the folder for this user alone, and remove it at the end.

    `remove_stale_shared_dirs` removes the folder of a killed runner.
    """
    root = owned_directory(_PREFIX)
    try:
        yield SharedDir(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def remove_stale_shared_dirs() -> list[Path]:
    """Remove the folders of dead runners, and return them."""
    return remove_orphans(_PREFIX)
