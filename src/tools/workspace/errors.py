"""Errors of a workspace. Every message is one line that can be shown to the model."""

from __future__ import annotations


class WorkspaceError(Exception):
    """A command, file or job operation failed. The message names the cause."""


class ForbiddenPath(WorkspaceError):
    """The path is off limits: the agent's mount, the verifier's files, a reference solution."""


class EnvironmentGone(WorkspaceError):
    """`environment.exec` itself fails: the container is gone."""
