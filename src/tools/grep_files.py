"""grep_files: lists the files with a matching line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from src.tools.base import Arguments, Tool, ToolResult
from src.tools.rendering import fit_lines
from src.tools.search import search_files

MAX_FILES = 1_000
_FOOTER_TOKENS = 60


class GrepFilesArguments(Arguments):
    pattern: str = Field(description="regular expression", min_length=1)
    include: str | None = Field(None, description="file name pattern, such as *.py or src/**/*.{c,h}")
    path: str = "."
    limit: int = Field(100, description=f"files, at most {MAX_FILES}")

    synonyms: ClassVar[Mapping[str, str]] = {
        "regex": "pattern",
        "query": "pattern",
        "glob": "include",
        "dir_path": "path",
    }


class GrepFiles(Tool[GrepFilesArguments]):
    name = "grep_files"
    description = (
        "Lists the files, sorted by path, that have a line matching a regex, by ripgrep, else "
        "grep -P, else grep -E with \\d \\w \\s (the result says which). Skips binary files, .git, "
        "node_modules and __pycache__."
    )
    read_only = True
    arguments = GrepFilesArguments

    async def run(self, arguments: GrepFilesArguments) -> ToolResult:
        limit = min(arguments.limit if arguments.limit > 0 else 100, MAX_FILES)
        result = await search_files(
            self.context.workspace,
            arguments.pattern,
            arguments.path or ".",
            include=arguments.include or None,
            limit=limit,
        )
        if not result.hits:
            return ToolResult(f"no matches; {result.program}")
        lines = [self.context.display_path(hit.path) for hit in result.hits]
        text, count = fit_lines(lines, self.context.budget - _FOOTER_TOKENS, self.context.counter)
        more = result.more or count < len(lines)
        noun = "file" if count == 1 else "files"
        total = f"the first {count} {noun}; there are more, narrow the search" if more else f"{count} {noun}"
        return ToolResult(f"{text}\n[{total}; {result.program}]")
