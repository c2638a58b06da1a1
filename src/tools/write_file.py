"""write_file: creates or replaces a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from src.tools.base import Arguments, Tool, ToolError, ToolResult
from src.tools.files import size_text


class WriteFileArguments(Arguments):
    file_path: str = Field(min_length=1)
    content: str = Field(description="the whole text, with its last line break")

    synonyms: ClassVar[Mapping[str, str]] = {"path": "file_path", "file": "file_path", "text": "content"}


class WriteFile(Tool[WriteFileArguments]):
    name = "write_file"
    description = (
        "Writes a file, all of it or nothing, and makes missing folders. Replaces a file that is there."
    )
    arguments = WriteFileArguments

    async def run(self, arguments: WriteFileArguments) -> ToolResult:
        workspace = self.context.workspace
        name = self.context.display_path(arguments.file_path)
        entry = await workspace.stat(arguments.file_path)
        if entry is not None and "dir" in (entry.kind, entry.target_kind):
            raise ToolError(f"{name} is a folder; name a file in it")
        data = arguments.content.encode("utf-8", "replace")
        await workspace.write_bytes(arguments.file_path, data)
        if entry is None:
            return ToolResult(f"created {name} ({size_text(data)})")
        size = entry.target_size if entry.kind == "link" else entry.size
        return ToolResult(f"replaced {name} ({size_text(data)}; it had {size or 0:,} bytes)")
