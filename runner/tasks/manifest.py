"""The manifest of a dataset: the digest that each task must have (docs/contract.md, Digest)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.results import write_model
from runner.tasks.config import TaskError
from runner.tasks.task import Task


class ManifestEntry(BaseModel):
    """One task of a manifest."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    content_digest_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """A manifest file: `{"dataset": …, "tasks": {name: {"content_digest_sha256": hex}}}`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    dataset: str
    tasks: dict[str, ManifestEntry]

    @classmethod
    def of(cls, dataset: str, tasks: Iterable[Task]) -> Manifest:
        """Return the manifest of tasks as they are now, sorted by name."""
        entries = {t.name: ManifestEntry(content_digest_sha256=t.digest) for t in tasks}
        return cls(dataset=dataset, tasks=dict(sorted(entries.items())))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            TaskError: The file cannot be read, or is not a manifest.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise TaskError(path, f"cannot be read: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise TaskError(path, f"is not a manifest: {where or 'the file'}: {first['msg']}") from None

    def write(self, path: Path) -> None:
        """Write the manifest atomically."""
        write_model(path, self)

    def verify(self, tasks: Iterable[Task], *, complete: bool = False) -> tuple[str, ...]:
        """Return one line for each task that differs from the manifest.

        If `complete`, a task of the manifest that is not among `tasks` differs as well.
        """
        problems: list[str] = []
        missing = dict.fromkeys(self.tasks)
        for task in tasks:
            missing.pop(task.name, None)
            entry = self.tasks.get(task.name)
            if entry is None:
                problems.append(f"{task.name}: not in the manifest (its digest is {task.digest})")
            elif entry.content_digest_sha256 != task.digest:
                problems.append(
                    f"{task.name}: changed: the manifest has {entry.content_digest_sha256}, "
                    f"the directory has {task.digest}"
                )
        if complete:
            problems += [f"{name}: in the manifest, but not in the directory" for name in missing]
        return tuple(problems)
