"""apply_patch: edits several files, all of the patch or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from src.tools.base import Arguments, Tool, ToolError, ToolResult
from src.tools.files import missing_error
from src.tools.patch import Change, Outcome, Patch, PatchError, apply_patch, parse_patch
from src.tools.patch.model import AddFile, Operation, UpdateFile
from src.tools.rendering import printable_path
from src.tools.workspace import WorkspaceError


class ApplyPatchArguments(Arguments):
    patch: str = Field(min_length=1)

    synonyms: ClassVar[Mapping[str, str]] = {"input": "patch", "diff": "patch", "patch_text": "patch"}


class ApplyPatch(Tool[ApplyPatchArguments]):
    name = "apply_patch"
    description = (
        "Edits files: all of the patch or nothing. Form:\n"
        "*** Begin Patch\n*** Update File: path\n*** Move to: new/path (optional)\n@@ line above the place, "
        "such as a def (optional)\n unchanged line\n-old line\n+new line\n*** Add File: path\n+line\n"
        "*** Delete File: path\n*** End Patch\n"
        "Give 3 unchanged lines around each change. Unified diffs work too."
    )
    arguments = ApplyPatchArguments

    async def run(self, arguments: ApplyPatchArguments) -> ToolResult:
        try:
            patch = self._normalised(parse_patch(arguments.patch))
            outcome = apply_patch(patch, await self._contents(patch))
        except PatchError as error:
            raise ToolError(f"nothing was changed: {error}") from None
        await self._write(outcome)
        lines = ["patch applied", *outcome.summary, *(f"note: {note}" for note in outcome.notes)]
        return ToolResult("\n".join(lines))

    def _normalised(self, patch: Patch) -> Patch:
        """Return the patch with one name for each file. Raises ForbiddenPath before any is read."""

        def normal(operation: Operation) -> Operation:
            path = self.context.relative_path(operation.path)
            if isinstance(operation, UpdateFile) and operation.move_to is not None:
                return replace(operation, path=path, move_to=self.context.relative_path(operation.move_to))
            return replace(operation, path=path)

        return tuple(normal(operation) for operation in patch)

    async def _contents(self, patch: Patch) -> dict[str, bytes]:
        workspace = self.context.workspace
        contents: dict[str, bytes] = {}
        created = _created(patch)
        for operation in patch:
            for path in _paths(operation):
                entry = await workspace.stat(path)
                if entry is None:
                    if path not in created:
                        raise PatchError(
                            f"patch line {operation.number}: {await missing_error(self.context, path)}"
                        )
                    continue
                if (entry.target_kind if entry.kind == "link" else entry.kind) != "file":
                    raise PatchError(
                        f"patch line {operation.number}: {printable_path(path)} is not a regular file"
                    )
                if path not in contents:
                    contents[path] = await workspace.read_bytes(path)
        return contents

    async def _write(self, outcome: Outcome) -> None:
        """Write first and remove last. After a failure, undo what was done."""
        done: list[Change] = []
        workspace = self.context.workspace
        ordered = sorted(outcome.changes, key=lambda change: change.after is None)
        try:
            for change in ordered:
                mode = change.mode
                if mode is None and change.origin is not None:
                    origin = await workspace.stat(change.origin)
                    mode = origin.mode if origin is not None and origin.kind == "file" else None
                done.append(change)
                if change.after is None:
                    await workspace.remove(change.path)
                else:
                    await workspace.write_bytes(change.path, change.after, mode=mode)
        except WorkspaceError as error:
            failed = await self._undo(done)
            state = f"; could not restore {', '.join(failed)}" if failed else "; nothing was changed"
            raise ToolError(f"{printable_path(done[-1].path)}: {error}{state}") from error

    async def _undo(self, done: Sequence[Change]) -> list[str]:
        """Undo all changes but the last, which failed. Return the paths that were not restored."""
        workspace = self.context.workspace
        failed: list[str] = []
        for change in reversed(done[:-1]):
            try:
                if change.before is None:
                    await workspace.remove(change.path)
                else:
                    await workspace.write_bytes(change.path, change.before)
            except WorkspaceError:
                failed.append(printable_path(change.path))
        return failed


def _paths(operation: Operation) -> list[str]:
    target = operation.move_to if isinstance(operation, UpdateFile) else None
    return [operation.path] if target is None else [operation.path, target]


def _created(patch: Patch) -> set[str]:
    created = {op.move_to for op in patch if isinstance(op, UpdateFile) and op.move_to is not None}
    return created | {op.path for op in patch if isinstance(op, AddFile)}
