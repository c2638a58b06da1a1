"""Copy the agent's logs and the task's artifacts out of the container."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel

from runner.environments import Environment
from runner.results import write_atomically
from runner.tasks.config import Artifact

AGENT_LOGS = "/logs/agent"
ARTIFACTS = "/logs/artifacts"
PROBE_TIMEOUT_SEC = 30.0

Kind = Literal["file", "directory"]


class ArtifactEntry(BaseModel):
    """An entry of `artifacts/manifest.json`, as Harbor's `ArtifactManifestEntry`."""

    source: str
    destination: str
    type: Kind
    status: Literal["ok", "failed", "empty", "skipped"]
    service: str | None = None
    exclude: list[str] = []


async def path_kind(environment: Environment, path: str) -> Kind | None:
    """Return whether a path in the container is a file or a directory, or None if it is missing."""
    quoted = shlex.quote(path)
    result = await environment.exec(
        f"if [ -d {quoted} ]; then echo directory; elif [ -e {quoted} ]; then echo file; fi",
        cwd="/",
        timeout_sec=PROBE_TIMEOUT_SEC,
        user="root",
    )
    kind = (result.stdout or "").strip()
    return kind if kind in ("file", "directory") else None


async def merge_agent_logs(environment: Environment, logs_dir: Path) -> list[str]:
    """Copy the container's /logs/agent into `logs_dir`, without replacing files that are there.

    Returns:
        The relative paths that were left out.
    """
    if await path_kind(environment, AGENT_LOGS) != "directory":
        return []
    with tempfile.TemporaryDirectory(dir=logs_dir.parent, prefix=".logs-") as temporary:
        await environment.download_dir(AGENT_LOGS, temporary)
        return _merge(Path(temporary), logs_dir)


async def collect_artifacts(
    environment: Environment, artifacts: Sequence[Artifact], folder: Path, log: Callable[[str], None]
) -> None:
    """Copy /logs/artifacts and the task's artifacts into `folder`, and write manifest.json.

    The manifest names those that are missing or cannot be copied. They are no error.
    """
    entries: list[ArtifactEntry] = []
    for artifact in (Artifact(source=ARTIFACTS), *artifacts):
        relative = artifact.destination or str(PurePosixPath(artifact.source)).lstrip("/")
        target = folder / relative
        kind: Kind = "directory"
        try:
            source_kind = await path_kind(environment, artifact.source)
            if source_kind is None:
                status = "empty" if artifact.source == ARTIFACTS else "failed"
            elif source_kind == "file":
                kind, status = "file", "ok"
                target.parent.mkdir(parents=True, exist_ok=True)
                await environment.download_file(artifact.source, target)
            else:
                target.mkdir(parents=True, exist_ok=True)
                await environment.download_dir(artifact.source, target)
                _drop_excluded(target, artifact.exclude)
                status = "ok" if any(target.iterdir()) else "empty"
        except (OSError, RuntimeError) as error:
            log(f"artifact {artifact.source}: {error}")
            status = "failed"
        entry = ArtifactEntry(source=artifact.source, destination=relative, type=kind, status=status)
        entries.append(entry.model_copy(update={"exclude": artifact.exclude}))
    _write_manifest(folder, entries)


def _write_manifest(folder: Path, entries: Sequence[ArtifactEntry]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    listed = json.dumps([entry.model_dump() for entry in entries], indent=2)
    write_atomically(folder / "manifest.json", listed + "\n")


def _drop_excluded(root: Path, patterns: Sequence[str]) -> None:
    if not patterns:
        return
    for path in sorted(root.rglob("*"), reverse=True):
        relative = path.relative_to(root).as_posix()
        if any(fnmatchcase(relative, p) or fnmatchcase(path.name, p) for p in patterns):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _merge(source: Path, target: Path) -> list[str]:
    left_out: list[str] = []
    for folder, _, names in os.walk(source):
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(source)
            if path.is_symlink() or not path.is_file():
                continue
            destination = target / relative
            try:
                if destination.is_symlink() or destination.exists():
                    left_out.append(relative.as_posix())
                    continue
                destination.parent.mkdir(parents=True, exist_ok=True)
                # A link in a parent must not lead the file out of the folder.
                if not destination.parent.resolve().is_relative_to(target.resolve()):
                    left_out.append(relative.as_posix())
                    continue
                path.replace(destination)
            except OSError:
                left_out.append(relative.as_posix())
    return left_out
