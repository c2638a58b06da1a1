"""Paths in the container, and those that are off limits."""

from __future__ import annotations

import posixpath

from src.tools.workspace.errors import ForbiddenPath, WorkspaceError

# The agent's own mount, the verifier's files, the reference solution, the verdict. scripts/files.sh
# has the same list and applies it to the targets of links.
FORBIDDEN = ("/workspace/agent", "/tests", "/solution", "/logs/verifier")


def is_forbidden(path: str) -> bool:
    """Return whether an absolute, normalised path is off limits."""
    return any(path == root or path.startswith(root + "/") for root in FORBIDDEN)


def resolve(path: str, cwd: str) -> str:
    """Return the absolute, normalised path. Raises ForbiddenPath, or WorkspaceError for no path."""
    if not path:
        raise WorkspaceError("the path is empty")
    if "\0" in path:
        raise WorkspaceError(f"{path!r} is no path: it contains a NUL byte")
    absolute = posixpath.normpath(posixpath.join(cwd, path))
    if absolute.startswith("//"):
        absolute = absolute[1:]
    if is_forbidden(absolute):
        raise ForbiddenPath(forbidden_message(absolute))
    return absolute


def forbidden_message(path: str) -> str:
    """Return the reason why a path is refused."""
    return f"{path} is off limits: files of the agent, of the checker and answers are not part of the task"
