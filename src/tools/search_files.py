"""search_files: shows the matching lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from src.tools.base import Arguments, Tool, ToolResult
from src.tools.rendering import fit_lines, printable_line
from src.tools.search import search_lines

MAX_MATCHES = 200
MAX_LINE_CHARS = 300
_FOOTER_TOKENS = 60


class SearchFilesArguments(Arguments):
    pattern: str = Field(description="regular expression as for grep_files", min_length=1)
    path: str = Field(".", description="folder or file")

    synonyms: ClassVar[Mapping[str, str]] = {
        "regex": "pattern",
        "query": "pattern",
        "dir_path": "path",
        "file_path": "path",
    }


class SearchFiles(Tool[SearchFilesArguments]):
    name = "search_files"
    description = f"Shows the lines that match, as 'path:line: text', sorted by path; at most {MAX_MATCHES}."
    read_only = True
    arguments = SearchFilesArguments

    async def run(self, arguments: SearchFilesArguments) -> ToolResult:
        context = self.context
        result = await search_lines(
            context.workspace, arguments.pattern, arguments.path or ".", limit=MAX_MATCHES
        )
        if not result.hits:
            return ToolResult(f"no matches; {result.program}")
        lines = [
            f"{context.display_path(hit.path)}:{number}: {_display(text)}"
            for hit in result.hits
            for number, text in hit.lines
        ]
        text, count = fit_lines(lines, context.budget - _FOOTER_TOKENS, context.counter)
        more = result.more or count < len(lines)
        noun = "match" if count == 1 else "matches"
        total = f"the first {count} {noun}; there are more, narrow the search" if more else f"{count} {noun}"
        return ToolResult(f"{text}\n[{total}; {result.program}]")


def _display(line: bytes) -> str:
    text = printable_line(line.removesuffix(b"\r").decode("utf-8", "replace"))
    return text if len(text) <= MAX_LINE_CHARS else text[:MAX_LINE_CHARS] + "…"
