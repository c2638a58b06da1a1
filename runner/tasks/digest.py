"""The digest of a folder's content, which tells whether a task has changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from runner.tasks.config import TaskError


def content_digest(path: Path) -> str:
    """Return the SHA-256 over every regular file below `path`, in hexadecimal.

    The definition is in docs/contract.md, Digest. Modes, times and empty folders do not count. A
    link to a file counts as that file under the link's name. Links to folders are not followed.
    Pipes and devices are left out.
    """
    total = hashlib.sha256()
    for relative, file in sorted((f.relative_to(path).as_posix(), f) for f in _files(path)):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{relative}\0{digest}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def refuse_escapes(root: Path) -> None:
    """Check that no symbolic link below `root` leads out of it.

    Raises:
        TaskError: A link points outside `root`, at nothing, or in a circle.
    """
    top = root.resolve()
    for folder, folders, files in os.walk(root, followlinks=False):
        for name in (*folders, *files):
            link = Path(folder, name)
            if not link.is_symlink():
                continue
            try:
                target = link.resolve(strict=True)
            except (OSError, RuntimeError):
                raise TaskError(link, "is a symbolic link to nothing: replace it with a file") from None
            if not target.is_relative_to(top):
                raise TaskError(link, "is a symbolic link out of the task: replace it with a file") from None


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root, followlinks=False):
        for name in names:
            file = Path(folder, name)
            if file.is_file():
                yield file
