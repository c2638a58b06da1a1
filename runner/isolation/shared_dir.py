"""The folder that both sides of an isolated run share, with sockets, the submission and logs."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from runner.environments.owner import orphaned_directories, owned_directory

INSIDE = Path("/run/capstan")
_PREFIX = "capstan-dind-"


@dataclass(frozen=True)
class SharedDir:
    """The folder's files, on the side on which `root` lies."""

    root: Path

    @property
    def relay(self) -> Path:
        """The unix socket of the relay that holds the key."""
        return self.root / "relay.sock"

    @property
    def engine(self) -> Path:
        """The unix socket of the inner engine."""
        return self.root / "docker.sock"

    @property
    def control(self) -> Path:
        """The unix socket over which the two sides exchange messages (link.py)."""
        return self.root / "control.sock"

    @property
    def submission(self) -> Path:
        """The agent's ZIP."""
        return self.root / "agent.zip"

    @property
    def engine_log(self) -> Path:
        """The log of dockerd."""
        return self.root / "dockerd.log"

    @property
    def inside_log(self) -> Path:
        """The log of the inner runner."""
        return self.root / "inside.log"


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
    removed: list[Path] = []
    for path in orphaned_directories(_PREFIX, (tempfile.gettempdir(),)):
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
            removed.append(path)
    return removed
