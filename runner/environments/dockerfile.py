"""Dockerfiles without Docker: the subset that can be carried out, and a build's images.

The subset is FROM, WORKDIR, COPY and ENV. Any other instruction is refused with one line that names
it. The rules follow Docker's Dockerfile reference: continuation lines, comments, heredocs, quoting,
variables, the JSON form of COPY.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runner.environments.base import EnvironmentStartError, EnvironmentUnsupported

_VARIABLE = re.compile(
    r"\\(?P<escaped>.)|\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?\})"
)
# What the classic builder, which the SDK uses, does not know (Dockerfile reference, "BuildKit").
_BUILDKIT_ONLY = re.compile(
    r"^\s*(#\s*syntax\s*=|(RUN|COPY|ADD)\s+--(mount|network|security|link|chmod|parents|exclude|checksum)|(RUN|COPY)\b.*<<)",
    re.IGNORECASE | re.MULTILINE,
)
_SYNTAX = re.compile(r"^#\s*syntax\s*=\s*(\S+)", re.IGNORECASE)
_HEREDOC = re.compile(r"<<-?\s*([\"']?)([A-Za-z_]\w*)\1")
_OTHER_IMAGE = re.compile(r"--from=(\S+)|--mount=\S*\bfrom=([^,\s]+)")

DEFAULT_WORKDIR = "/app"
"""WORKDIR of a base image that is never looked at."""


@dataclass(frozen=True, slots=True)
class CopyStep:
    """One COPY of patterns in the build context. A `target` that is a folder ends with "/"."""

    line: int
    sources: tuple[str, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """The steps of a Dockerfile of the subset. `folders` are its WORKDIRs, which are to be made."""

    base_image: str
    workdir: str
    env: Mapping[str, str]
    folders: tuple[str, ...]
    copies: tuple[CopyStep, ...]


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of its first line, instruction), joined and without heredocs."""
    joined, start = "", 0
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        raw = lines[at]
        at += 1
        if raw.lstrip().startswith("#") or (joined and not raw.strip()):
            continue
        start = start or at
        line = raw.rstrip()
        if line.endswith("\\"):
            joined += line[:-1]
            continue
        if whole := (joined + line).strip():
            yield start, whole
            at = _after_heredocs(whole, lines, at)
        joined, start = "", 0
    if joined.strip():
        yield start, joined.strip()


def _after_heredocs(instruction: str, lines: Sequence[str], at: int) -> int:
    """Return the index of the line after the heredocs that an instruction opens."""
    if instruction.split(None, 1)[0].upper() not in ("RUN", "COPY", "ADD"):
        return at
    for match in _HEREDOC.finditer(instruction):
        end = next((n for n in range(at, len(lines)) if lines[n].strip() == match[2]), None)
        if end is None:  # a shift in an arithmetic expression
            return at
        at = end + 1
    return at


def _expand(text: str, env: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match["escaped"] is not None:
            return match["escaped"] if match["escaped"] == "$" else match[0]
        found = env.get(match["plain"] or match["braced"])
        return found or match["default"] or ""

    return _VARIABLE.sub(value, text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentStartError(f"{path}: cannot be read: {error}") from None


def needs_buildkit(path: Path) -> bool:
    """Return whether only BuildKit can build a Dockerfile. Raises EnvironmentStartError."""
    return bool(_BUILDKIT_ONLY.search(_read(path)))


def base_images(path: Path) -> list[str]:
    """Return the images that a build needs, each once: FROM, COPY --from, mounts, `# syntax=`.

    Stages of the file itself and `scratch` are left out. Variables have the defaults of their ARG
    lines. A name that stays empty is left out; the build fails on it with the engine's words.

    Raises:
        EnvironmentStartError: It cannot be read.
    """
    text = _read(path)
    names: list[str] = []
    if syntax := _SYNTAX.match(text):
        names.append(syntax[1])
    arguments, stages = dict[str, str](), {"scratch"}
    started = 0
    for _, line in _logical_lines(text):
        word, *words = line.split()
        word = word.upper()
        if word == "ARG" and not started:
            for part in _split_keeping_quotes(line.partition(" ")[2]):
                name, _, value = part.partition("=")
                arguments[name] = _expand(value.strip("\"'"), arguments)
        elif word == "FROM":
            image = next((_expand(part, arguments) for part in words if not part.startswith("--")), "")
            if image.lower() not in stages:
                names.append(image)
            stages.add(str(started))
            if len(words) > 2 and words[-2].upper() == "AS":
                stages.add(words[-1].lower())
            started += 1
        elif word in ("COPY", "RUN", "ADD"):
            # Only images: a later stage's name or number is in `stages` by now, or the build fails.
            others = [match[1] or match[2] for match in _OTHER_IMAGE.finditer(line)]
            names += [name for name in others if name.lower() not in stages and "$" not in name]
    return [name for name in dict.fromkeys(names) if name]


def parse_dockerfile(path: Path) -> Recipe:
    """Read a Dockerfile of the subset.

    Raises:
        EnvironmentStartError: It cannot be read, or is wrong.
        EnvironmentUnsupported: It has another instruction, which the error names.
    """
    text = _read(path)
    base: str | None = None
    workdir, env = PurePosixPath(DEFAULT_WORKDIR), dict[str, str]()
    folders: list[str] = []
    copies: list[CopyStep] = []
    for number, line in _logical_lines(text):
        word, _, rest = line.partition(" ")
        word, rest = word.upper(), rest.strip()

        def refuse(what: str, number: int = number) -> EnvironmentUnsupported:
            return EnvironmentUnsupported(
                f"{path}: line {number}: {what} needs Docker; only FROM, WORKDIR, COPY and ENV do not"
            )

        if word == "FROM":
            if base is not None:
                raise refuse("a second FROM")
            if rest.startswith("--"):
                raise refuse(f"FROM {rest.split()[0]}")
            base = rest.split()[0] if rest else ""
        elif word == "WORKDIR":
            workdir = workdir / _expand(rest.strip("\"'"), env)
            folders.append(str(workdir))
        elif word == "ENV":
            try:
                env.update(_env(rest, env))
            except ValueError as error:
                raise EnvironmentStartError(f"{path}: line {number}: ENV: {error}") from None
        elif word == "COPY":
            if rest.startswith("--") or "<<" in rest:
                raise refuse(f"COPY {rest.split()[0]}")
            names = _copy_words(rest)
            if len(names) < 2:
                raise EnvironmentStartError(f"{path}: line {number}: COPY needs a source and a target")
            names = [_expand(name, env) for name in names]
            target = str(workdir / names[-1])
            if names[-1].endswith(("/", "/.")) or names[-1] == "." or len(names) > 2:
                target = target.rstrip("/") + "/"
            copies.append(CopyStep(number, tuple(names[:-1]), target))
        else:
            raise refuse(word)
    if not base:
        raise EnvironmentStartError(f"{path}: has no FROM")
    return Recipe(base, str(workdir), env, tuple(folders), tuple(copies))


def _env(rest: str, env: Mapping[str, str]) -> dict[str, str]:
    first = rest.split(None, 1)
    if first and "=" not in first[0]:
        if len(first) < 2:
            raise ValueError("needs NAME=value")
        return {first[0]: _expand(first[1], env)}
    values: dict[str, str] = {}
    # Docker expands with the values from before this line, and not inside single quotes.
    for word in _split_keeping_quotes(rest):
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise ValueError(f"{word!r} is not NAME=value")
        quoted = value.startswith("'") and value.endswith("'") and len(value) > 1
        plain = "".join(shlex.split(value)) if value else ""
        values[name] = plain if quoted else _expand(plain, env)
    return values


def _split_keeping_quotes(text: str) -> list[str]:
    return re.findall(r"""(?:[^\s"'\\]|\\.|"(?:\\.|[^"\\])*"|'[^']*')+""", text)


def _copy_words(rest: str) -> list[str]:
    if rest.startswith("["):
        try:
            words = json.loads(rest)
        except ValueError:
            return rest.split()
        return [str(word) for word in words]
    return rest.split()
