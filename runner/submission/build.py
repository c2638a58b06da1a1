"""Build the submission ZIP. The same tree gives the same bytes, on any machine and any day."""

from __future__ import annotations

import hashlib
import io
import re
import stat
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

# The earliest date in the format. Real dates would change the bytes, and so the identity.
FIXED_DATE = (1980, 1, 1, 0, 0, 0)
FIXED_MODE = 0o644
COMPRESSION_LEVEL = 9
ROOT_FILES = ("agent.py", "pyproject.toml")
PACKAGE = "src"
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules"})
_SKIPPED_SUFFIXES = frozenset({".pyc", ".pyo", ".swp", ".swo", ".orig", ".rej", ".bak", ".tmp", ".log"})


class BuildError(Exception):
    """A ZIP cannot be built from the source tree. The message is one line."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The ZIP that was built.

    Attributes:
        data: The ZIP.
        sha256: Its digest, which identifies the submission.
        members: The paths in it.
        left_out: The paths of the tree that are not in it.
    """

    data: bytes
    sha256: str
    members: tuple[str, ...]
    left_out: tuple[str, ...]


def build_zip(source: Path) -> BuildReport:
    """Build the submission of a source tree.

    It has agent.py, src/, pyproject.toml, and a requirements.txt with pyproject's dependencies.

    Args:
        source: The folder with agent.py.

    Raises:
        BuildError: There is no agent.py, a file is a symbolic link or cannot be read, or
            pyproject.toml is invalid.
    """
    if not (source / "agent.py").is_file():
        raise BuildError(f"{source}/agent.py: not found: --source must be the folder with agent.py")
    files, left_out = _collect(source)
    requirements = _requirements(source)
    if requirements is not None:
        files["requirements.txt"] = requirements
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, FIXED_DATE)
            info.create_system = 3  # POSIX, on any machine
            info.external_attr = (stat.S_IFREG | FIXED_MODE) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name], compresslevel=COMPRESSION_LEVEL)
    data = buffer.getvalue()
    return BuildReport(data, hashlib.sha256(data).hexdigest(), tuple(sorted(files)), tuple(left_out))


def _collect(source: Path) -> tuple[dict[str, bytes], list[str]]:
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    for entry in sorted(path.name for path in source.iterdir()):
        path = source / entry
        if entry in ROOT_FILES and path.is_file():
            files[entry] = _read(path, entry)
        elif entry == PACKAGE and path.is_dir() and not path.is_symlink():
            _collect_package(path, entry, files, left_out)
        elif entry != "requirements.txt":  # handled by _requirements
            left_out.append(entry + "/" if path.is_dir() else entry)
    return files, left_out


def _collect_package(folder: Path, name: str, files: dict[str, bytes], left_out: list[str]) -> None:
    for entry in sorted(path.name for path in folder.iterdir()):
        path, inner = folder / entry, f"{name}/{entry}"
        if path.is_dir() and not path.is_symlink():
            if entry.startswith(".") or entry in _SKIPPED_FOLDERS:
                left_out.append(inner + "/")
            else:
                _collect_package(path, inner, files, left_out)
        elif entry.startswith(".") or entry.endswith("~") or path.suffix in _SKIPPED_SUFFIXES:
            left_out.append(inner)
        else:
            files[inner] = _read(path, inner)


def _read(path: Path, name: str) -> bytes:
    if path.is_symlink():
        raise BuildError(f"{name}: is a symbolic link, which the ZIP may not have: replace it with the file")
    if not path.is_file():
        raise BuildError(f"{name}: is not a regular file: remove it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError(f"{name}: cannot be read: {error.strerror}") from None


def _requirements(source: Path) -> bytes | None:
    """Return requirements.txt: pyproject's dependencies, or else the tree's own file, or None."""
    project_file = source / "pyproject.toml"
    if project_file.is_file():
        try:
            project = tomllib.loads(project_file.read_text(encoding="utf-8")).get("project", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BuildError(f"pyproject.toml: {error}") from None
        dependencies = project.get("dependencies")
        if dependencies:
            for line in dependencies:
                if not re.search(r">=|==|~=", line):
                    raise BuildError(
                        f"pyproject.toml: [project] dependencies: {line!r} has no lower bound: "
                        'write one, as in "httpx>=0.27"'
                    )
            return ("\n".join(sorted(dependencies)) + "\n").encode()
    own = source / "requirements.txt"
    return _read(own, "requirements.txt") if own.is_file() else None
