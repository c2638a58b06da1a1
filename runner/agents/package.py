"""A submission that is ready to run: a ZIP or the folder that becomes one, and its interpreter."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from runner.agents.requirements import RequirementsError, prepare_interpreter
from runner.submission import BuildError, build_zip, check_entrypoint, check_structure, open_archive

# An agent that calls a model names a variable of the contract, the provider or a client library.
_MODEL_NAMES = re.compile(rb"deepseek|openai|litellm|llm_|api_key|base_url|chat/completions", re.IGNORECASE)


class PackageError(Exception):
    """A submission that cannot be run. The message is one line."""


@dataclass(frozen=True)
class AgentPackage:
    """A checked submission and its interpreter. All trials of a job share it.

    Attributes:
        digest: SHA-256 of the ZIP. For a folder, of the ZIP that build_zip makes of it.
        files: The content of each file, by its POSIX path.
        interpreter: The Python that has its libraries.
    """

    digest: str
    files: Mapping[str, bytes] = field(repr=False)
    interpreter: Path

    @classmethod
    async def prepare(cls, source: Path, cache_dir: Path) -> AgentPackage:
        """Read and check a submission, a ZIP or a folder, and prepare its interpreter.

        Raises:
            PackageError: The submission cannot be read, is over a limit or has no class Agent, or
                its requirements cannot be installed.
        """
        digest, files = await asyncio.to_thread(_read, source)
        try:
            text = files.get("requirements.txt", b"").decode("utf-8")
            interpreter = await prepare_interpreter(text, cache_dir)
        except UnicodeDecodeError:
            raise PackageError(f"{source}: requirements.txt is not UTF-8 text") from None
        except RequirementsError as error:
            raise PackageError(f"{source}: {error}") from None
        return cls(digest, files, interpreter)

    @property
    def names_model(self) -> bool:
        """Whether the files name what an agent needs to call a model."""
        return _names_model(self.files)

    def unpack(self, target: Path) -> None:
        """Write the files into a new folder. File modes are lost, as at the validator."""
        target.mkdir(parents=True)
        for name, data in self.files.items():
            path = target.joinpath(*PurePosixPath(name).parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def needs_model(source: Path) -> bool:
    """Whether the files of a submission, a ZIP or a folder, name what calling a model takes.

    Raises:
        PackageError: The submission cannot be read, is over a limit or has no class Agent.
    """
    _, files = _read(source)
    return _names_model(files)


def _names_model(files: Mapping[str, bytes]) -> bool:
    return any(_MODEL_NAMES.search(data) for data in files.values())


def _read(source: Path) -> tuple[str, Mapping[str, bytes]]:
    try:
        archive = open_archive(build_zip(source).data if source.is_dir() else source)
    except BuildError as error:
        raise PackageError(str(error)) from None
    except OSError as error:
        raise PackageError(f"{source}: cannot be read: {error.strerror or error}") from None
    findings = check_structure(archive) or check_entrypoint(archive)
    if findings:
        first = findings[0]
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise PackageError(f"{source}: {first.where}: {first.message}: {first.remedy} [{first.code}]{more}")
    return archive.sha256, archive.contents
