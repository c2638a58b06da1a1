"""The jobs that are shown, by name. A name that came with a request never becomes a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.results import RECORD_FILE


@dataclass(frozen=True)
class JobIndex:
    """All jobs in a folder, or some that were named."""

    folder: Path | None = None
    named: Sequence[Path] = ()

    def jobs(self) -> dict[str, Path]:
        """Folders of jobs by their names, the newest first."""
        found = [path.resolve() for path in self.named]
        if self.folder is not None and self.folder.is_dir():
            found += [path.parent for path in self.folder.resolve().glob(f"[!.]*/{RECORD_FILE}")]
        found.sort(key=lambda path: _begun(path), reverse=True)
        shown: dict[str, Path] = {}
        for path in found:
            shown.setdefault(path.name, path)
        return shown

    def find(self, name: str) -> Path | None:
        """The folder of the job of that name."""
        if self.folder is None:
            return self.jobs().get(name)
        plain = bool(name) and "/" not in name and "\0" not in name and not name.startswith(".")
        path = self.folder.resolve() / name
        if plain and not path.is_symlink() and (path / RECORD_FILE).is_file():
            return path
        return next((p.resolve() for p in self.named if p.name == name), None)


def _begun(path: Path) -> float:
    try:
        return (path / "config.json").stat().st_mtime
    except OSError:
        return 0.0
