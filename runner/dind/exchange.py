"""The folder that the outside and the inside of an isolated run share: sockets, the submission, logs."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.environments.owner import orphaned_directories, owned_directory

INSIDE = Path("/run/capstan")
_PREFIX = "capstan-dind-"


@dataclass(frozen=True)
class Exchange:
    """Its files, on the side on which `root` lies."""

    root: Path

    @property
    def relay(self) -> Path:
        """The unix socket of the relay that holds the key."""
        return self.root / "relay.sock"

    @property
    def engine(self) -> Path:
        """The unix socket of the engine inside."""
        return self.root / "docker.sock"

    @property
    def control(self) -> Path:
        """The unix socket over which the two sides talk (link.py)."""
        return self.root / "control.sock"

    @property
    def submission(self) -> Path:
        """The agent's ZIP."""
        return self.root / "agent.zip"

    @property
    def engine_log(self) -> Path:
        """What dockerd says."""
        return self.root / "dockerd.log"

    @property
    def inside_log(self) -> Path:
        """What the runner inside says to nobody else."""
        return self.root / "inside.log"


@contextlib.contextmanager
def open_exchange() -> Iterator[Exchange]:
    """A new one, for this user alone; gone at the end. One of a killed runner goes with `sweep`."""
    root = owned_directory(_PREFIX)
    try:
        yield Exchange(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def sweep() -> list[Path]:
    """Removes the folders of runners that are gone."""
    removed: list[Path] = []
    for path in orphaned_directories(_PREFIX, (tempfile.gettempdir(),)):
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
            removed.append(path)
    return removed
