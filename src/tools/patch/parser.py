"""Parsing a patch in either format, with the wrappers that models put around it."""

from __future__ import annotations

import re

from src.tools.patch.envelope import parse_envelope
from src.tools.patch.model import NumberedLines, Patch, PatchError
from src.tools.patch.unified import parse_unified

_BEGIN = re.compile(r"\*\*\* Begin Patch\s*\Z")
_END = re.compile(r"\*\*\* End Patch\s*\Z")
_SECTION = re.compile(r"\*\*\* (?:Add|Update|Delete) File:")
_FENCE = re.compile(r"```[\w-]*\s*\Z")
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1\s*\Z")
_DIFF_START = re.compile(r"diff --git |--- |Index: ")

FORMATS = (
    "a patch is '*** Begin Patch', then sections '*** Add File: PATH', '*** Update File: PATH' or "
    "'*** Delete File: PATH', then '*** End Patch'; or a unified diff with ---, +++ and @@ lines"
)


def parse_patch(text: str) -> Patch:
    """Return the operations of a patch, in the envelope format or as a unified diff.

    Code fences and a here-document around it are removed. `*** End Patch` may be missing.

    Raises:
        PatchError: The text is not a patch. Line numbers in the message are those of `text`, from
            1.
    """
    numbered = [(line, number) for number, line in enumerate(text.split("\n"), 1)]
    if numbered and all(line.endswith("\r") for line, _ in numbered if line):
        numbered = [(line.removesuffix("\r"), number) for line, number in numbered]
    numbered = _unwrapped(numbered)
    begin = next((i for i, (line, _) in enumerate(numbered) if _BEGIN.match(line)), None)
    if begin is None:
        starts = (
            i for i, (line, _) in enumerate(numbered) if _SECTION.match(line) or _DIFF_START.match(line)
        )
        start = next(starts, None)
        if start is None:
            raise PatchError(f"no patch in this text: {FORMATS}")
        if not _SECTION.match(numbered[start][0]):
            return _checked(parse_unified(numbered[start:]))
        begin = start - 1
    body = numbered[begin + 1 :]
    end = next((i for i, (line, _) in enumerate(body) if _END.match(line)), None)
    if end is not None:
        body = body[:end]
    if not any(_SECTION.match(line) for line, _ in body) and any(_DIFF_START.match(line) for line, _ in body):
        return _checked(parse_unified(body))
    return _checked(parse_envelope(body))


def _checked(patch: Patch) -> Patch:
    if not patch:
        raise PatchError(f"the patch changes nothing: {FORMATS}")
    return patch


def _unwrapped(lines: NumberedLines) -> NumberedLines:
    """Return the lines without blank lines, code fences and here-documents around them."""
    while True:
        while lines and not lines[0][0].strip():
            lines = lines[1:]
        if not lines:
            return lines
        first = lines[0][0]
        last = next((i for i in range(len(lines) - 1, 0, -1) if lines[i][0].strip()), 0)
        heredoc = _HEREDOC.search(first)
        if _FENCE.match(first) and first.strip():
            lines = lines[1:last] if lines[last][0].strip() == "```" else lines[1:]
        elif heredoc and not first.startswith("***"):
            lines = lines[1:last] if lines[last][0].strip() == heredoc.group(2) else lines[1:]
        else:
            return lines
