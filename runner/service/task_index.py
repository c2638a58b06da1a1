"""The tasks that may be asked for, by every name they have. A name never becomes a path."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from runner.tasks import Dataset, TaskError, load_dataset
from runner.web.errors import ServiceError

_GLOB = frozenset("*?[")


@dataclass
class TaskIndex:
    """The tasks of TB2_DIR, read again whenever a folder came or went."""

    root: Path
    _names: dict[str, str] = field(default_factory=dict)
    _stamp: int | None = None

    def folder(self, name: str) -> str:
        """The folder's name of a task: given that itself, the short name, or `org/name`.

        Raises ServiceError where there is no such task, or no directory of tasks.
        """
        known = self._known()
        wanted = name.strip().rstrip("/")
        if wanted in known:
            return known[wanted]
        near = difflib.get_close_matches(wanted, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ServiceError(404, "task_unknown", f"there is no task {name[:200]!r} in {self.root.name}{hint}")

    def first(self, names: Sequence[str]) -> str:
        """The folder of the first name that is known. Raises ServiceError about the first where none is."""
        known = self._known()
        return next((known[n.strip()] for n in names if n.strip() in known), None) or self.folder(names[0])

    def folders(self, names: Sequence[str]) -> tuple[str, ...]:
        """The folders of several names or globs, each once, in order; all tasks where `names` is empty."""
        known = self._known()
        if not names:
            return tuple(dict.fromkeys(known.values()))
        found: dict[str, None] = {}
        for name in names:
            if not _GLOB & set(name):
                found[self.folder(name)] = None
                continue
            matched = [folder for known_as, folder in known.items() if fnmatchcase(known_as, name)]
            if not matched:
                raise ServiceError(404, "task_unknown", f"no task of {self.root.name} matches {name[:200]!r}")
            found.update(dict.fromkeys(matched))
        return tuple(found)

    def _known(self) -> dict[str, str]:
        try:
            stamp = self.root.stat().st_mtime_ns
        except OSError:
            raise _missing(self.root) from None
        if stamp != self._stamp:
            self._names, self._stamp = _read(self.root), stamp
        return self._names


def _read(root: Path) -> dict[str, str]:
    try:
        dataset: Dataset = load_dataset(root)
    except TaskError as error:
        raise ServiceError(503, "tasks_missing", f"TB2_DIR: {error}") from None
    names: dict[str, str] = {}
    for task in dataset.tasks:
        for name in (task.path.name, task.name, task.full_name):
            names.setdefault(name, task.path.name)
    for broken in dataset.broken:  # it is run, too: the answer then says what is wrong with it
        folder = broken.path.relative_to(root).parts[0]
        names.setdefault(folder, folder)
    return names


def _missing(root: Path) -> ServiceError:
    return ServiceError(
        503,
        "tasks_missing",
        f"TB2_DIR: there is no directory {root}: set TB2_DIR to the folder that holds the tasks",
    )
