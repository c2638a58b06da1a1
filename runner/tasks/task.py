"""A task directory, read whole and checked before anything is started."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runner.tasks.config import TaskConfig
from runner.tasks.digest import content_digest, refuse_escapes
from runner.tasks.errors import TaskError, UnsupportedTask
from runner.tasks.explain import parse_config

__all__ = ["Task", "load_task", "strip_canary"]

_CANARY = re.compile(r"^(<!--.*canary.*-->|#.*canary.*)$", re.IGNORECASE)
_COMPOSE_FILES = ("docker-compose.yaml", "docker-compose.yml", "compose.yaml", "compose.yml")


@dataclass(frozen=True)
class Task:
    """One task, as it lies on the disk.

    Attributes:
        name: the short name: the last part of ``[task] name``, else the folder's name.
        path: the task's folder, absolute.
        config: ``task.toml``.
        instruction: ``instruction.md`` without leading canary comments.
        digest: ``content_digest`` of the folder.
        warnings: what is odd but harmless, one line each.
    """

    name: str
    path: Path
    config: TaskConfig
    instruction: str
    digest: str
    warnings: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """``org/name`` where task.toml says so, else the short name."""
        return self.config.task.name if self.config.task is not None else self.name

    @property
    def environment_dir(self) -> Path:
        return self.path / "environment"

    @property
    def tests_dir(self) -> Path:
        return self.path / "tests"

    @property
    def solution_dir(self) -> Path:
        return self.path / "solution"

    @property
    def config_path(self) -> Path:
        return self.path / "task.toml"


def load_task(path: Path | str) -> Task:
    """Reads and checks the task at ``path``.

    Raises:
        UnsupportedTask: the task needs something this runner does not do; the error names it.
        TaskError: anything else that keeps it from running, in one line.
    """
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise TaskError(Path(path), "is no directory: a task is a directory with a task.toml")
    config, warnings = parse_config(folder / "task.toml")
    _refuse_unsupported(folder, config)
    _check_files(folder)
    refuse_escapes(folder)
    if (folder / ".harborignore").exists():
        warnings = (
            *warnings,
            f"{folder / '.harborignore'}: not applied: all of tests/ and solution/ is used",
        )
    dockerfile = folder / "environment" / "Dockerfile"
    if config.environment.docker_image is None and not dockerfile.is_file():
        # The evaluation service's last place to look for an image (contracts.md 8).
        warnings = (
            *warnings,
            f"{dockerfile}: missing, and [environment] docker_image names no image: it can be run only with "
            "DEFAULT_IMAGE_REGISTRY",
        )
    return Task(
        name=config.task.short_name if config.task is not None else folder.name,
        path=folder,
        config=config,
        instruction=_read_instruction(folder / "instruction.md"),
        digest=content_digest(folder),
        warnings=warnings,
    )


def strip_canary(text: str) -> str:
    """``text`` without the canary comment lines it begins with, and the blank lines that follow them.

    The rule is Harbor's: a line ``<!-- …canary… -->`` or ``# …canary…``, in any case.
    """
    lines = text.split("\n")
    first = 0
    while first < len(lines) and _CANARY.match(lines[first].strip()):
        first += 1
    while first < len(lines) and not lines[first].strip():
        first += 1
    return "\n".join(lines[first:])


def _read_instruction(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise TaskError(path, "missing: the agent is told its task here") from None
    except OSError as error:
        raise TaskError(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TaskError(path, f"is not UTF-8 text (byte {error.start})") from None
    instruction = strip_canary(text.replace("\r\n", "\n"))
    if not instruction.strip():
        raise TaskError(path, "is empty: the agent is told its task here")
    return instruction


def _check_files(folder: Path) -> None:
    if not (folder / "tests" / "test.sh").is_file():
        raise TaskError(folder / "tests" / "test.sh", "missing: the verifier runs it")


def _refuse_unsupported(folder: Path, config: TaskConfig) -> None:
    toml = folder / "task.toml"
    environment, verifier = config.environment, config.verifier
    if config.steps or (folder / "steps").is_dir():
        raise UnsupportedTask(toml, "steps", "[[steps]]: a task with several steps")
    if environment.os == "windows":
        raise UnsupportedTask(toml, "windows", '[environment] os = "windows": only Linux containers run here')
    if environment.gpus:
        raise UnsupportedTask(
            toml, "gpus", f"[environment] gpus = {environment.gpus}: no GPU is passed to tasks"
        )
    if environment.tpu is not None:
        raise UnsupportedTask(toml, "tpu", "[environment] tpu: no TPU is passed to tasks")
    if environment.mcp_servers:
        raise UnsupportedTask(
            toml, "mcp_servers", "[[environment.mcp_servers]]: the agent has no network to reach them"
        )
    if verifier.environment_mode == "separate" or verifier.environment is not None:
        raise UnsupportedTask(
            toml,
            "separate verifier",
            "[verifier.environment]: the verifier runs in the agent's own container",
        )
    if any(hook.service != "main" for hook in verifier.collect) or any(
        artifact.service not in (None, "main") for artifact in config.artifacts
    ):
        raise UnsupportedTask(toml, "compose", "service: there is no service but main without compose")
    for name in _COMPOSE_FILES:
        if (folder / "environment" / name).exists():
            raise UnsupportedTask(
                folder / "environment" / name, "compose", "an environment of several services"
            )
    _refuse_networks(toml, config)


def _refuse_networks(toml: Path, config: TaskConfig) -> None:
    if config.environment.network_mode == "allowlist":
        raise UnsupportedTask(
            toml, "allowlist", '[environment] network_mode = "allowlist": only "public" or "no-network"'
        )
    ours = "public" if config.environment.network == "public" else "no-network"
    for table, section in (("agent", config.agent), ("verifier", config.verifier)):
        if section.network_mode not in (None, ours):
            raise UnsupportedTask(
                toml,
                "network phases",
                f'[{table}] network_mode = "{section.network_mode}" where the environment has "{ours}": '
                "the network is the same for the whole trial",
            )
