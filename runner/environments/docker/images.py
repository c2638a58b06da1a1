"""Where a task's image comes from: the registry order of the evaluation service, or its Dockerfile.

Built images are tagged with the digest of their context, so that each is built once; a lock in memory and one
on disk keep two builds of the same image from running at a time, in this process and in others.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import APIError, BuildError, ImageNotFound

from runner.environments.base import EnvironmentSpec, EnvironmentStartError
from runner.environments.docker.engine import Engine, Progress
from runner.environments.docker.settings import DockerSettings
from runner.environments.owner import PREFIX

_ERROR_LINES = 12
_LOCK_POLL_SEC = 0.2
# What the classic builder, which the SDK speaks to, does not know (Dockerfile reference, "BuildKit").
_NEEDS_BUILDKIT = re.compile(
    r"^\s*(#\s*syntax\s*=|(RUN|COPY|ADD)\s+--(mount|network|security|link|chmod|parents|exclude|checksum)|(RUN|COPY)\b.*<<)",
    re.IGNORECASE | re.MULTILINE,
)
_locks: dict[tuple[int, str], asyncio.Lock] = {}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image that is here. `user` is "" for root; `workdir` is "/" where the image names none."""

    name: str
    id: str
    user: str
    workdir: str
    has_entrypoint: bool


def image_candidates(spec: EnvironmentSpec, settings: DockerSettings) -> list[str]:
    """Names to look for, best first; empty means: build it."""
    if spec.docker_image:
        names = [spec.docker_image]
        if settings.registry:
            names.insert(0, f"{settings.registry}:{spec.task_name}-{_version(spec.docker_image)}")
        return names
    if settings.default_registry and not _dockerfile(spec):
        return [f"{settings.default_registry}:{spec.task_name}"]
    return []


def _version(image: str) -> str:
    name, sign, tag = image.partition("@")[0].rpartition(":")
    return tag if sign and name and "/" not in tag else "latest"


def _dockerfile(spec: EnvironmentSpec) -> Path | None:
    path = spec.context_dir / "Dockerfile" if spec.context_dir else None
    return path if path is not None and path.is_file() else None


def built_tag(spec: EnvironmentSpec) -> str:
    """The name of the image built from the task's environment folder."""
    slug = re.sub(r"[^a-z0-9]+", "-", spec.task_name.lower()).strip("-") or "task"
    return f"{PREFIX}task/{slug}:{spec.digest.removeprefix('sha256:')[:24] or 'latest'}"


async def ensure_image(engine: Engine, spec: EnvironmentSpec, settings: DockerSettings) -> ImageInfo:
    """Have the task's image here: find, pull or build it.

    Raises:
        EnvironmentStartError: One sentence: what was looked for and how to get it, or how the build ended.
        EnvironmentLost: The engine went away.
    """
    candidates = image_candidates(spec, settings)
    if not candidates:
        if _dockerfile(spec) is None:
            raise EnvironmentStartError(
                f"{spec.task_name}: there is neither a docker_image nor a Dockerfile: write one, or set "
                "DEFAULT_IMAGE_REGISTRY"
            )
        return await build_image(engine, spec, settings)
    for name in candidates:
        if found := await find_image(engine, name):
            return found
    if not settings.pull:
        how = "capstan images build" if _dockerfile(spec) else "docker pull"
        raise EnvironmentStartError(
            f"{spec.task_name}: no image {' or '.join(candidates)} here, and PULL_IF_NOT_EXISTS is false; "
            f"get it with: {how}"
        )
    complaints: list[str] = []
    for name in candidates:
        try:
            async with one_at_a_time(settings, name):
                return await find_image(engine, name) or await _pull(engine, name)
        except (APIError, EnvironmentStartError) as error:
            complaints.append(f"{name}: {error.explanation if isinstance(error, APIError) else error}")
    raise EnvironmentStartError(f"{spec.task_name}: no image can be had: {'; '.join(complaints)}")


async def find_image(engine: Engine, name: str) -> ImageInfo | None:
    """The image of that name, if it is here."""
    try:
        raw = await engine.call(engine.api.inspect_image, name)
    except ImageNotFound:
        return None
    config: dict[str, Any] = raw.get("Config") or {}
    return ImageInfo(
        name,
        raw["Id"],
        config.get("User") or "",
        config.get("WorkingDir") or "/",
        bool(config.get("Entrypoint")),
    )


async def _pull(engine: Engine, name: str) -> ImageInfo:
    progress = Progress()
    failures: list[str] = []

    def each(event: dict[str, Any]) -> None:
        if "error" in event:
            failures.append(str(event["error"]))

    def work() -> None:
        tag = None if "@" in name or _version(name) != "latest" or name.endswith(":latest") else "latest"
        progress.follow(progress.client.pull(name, tag=tag, stream=True, decode=True), each)

    await _abortable(engine, progress, work)
    found = await find_image(engine, name)
    if failures or found is None:
        raise EnvironmentStartError(failures[0] if failures else f"{name} was pulled but is not there")
    return found


async def build_image(
    engine: Engine,
    spec: EnvironmentSpec,
    settings: DockerSettings,
    *,
    force: bool = False,
    tag: str | None = None,
) -> ImageInfo:
    """Build the task's image from its environment folder, unless it is here. Raises as `ensure_image`.

    `tag` is a further name for it (a docker_image that cannot be pulled).
    """
    name = built_tag(spec)
    async with one_at_a_time(settings, name):
        found = None if force else await find_image(engine, name)
        if found is None:
            await _build(engine, spec, settings, name)
            found = await find_image(engine, name)
            if found is None:
                raise EnvironmentStartError(f"{spec.task_name}: the build ended without an image {name}")
        if tag is not None:
            await engine.call(engine.client.images.get(name).tag, tag)
        return found


async def _build(engine: Engine, spec: EnvironmentSpec, settings: DockerSettings, name: str) -> None:
    assert spec.context_dir is not None
    dockerfile = spec.context_dir / "Dockerfile"
    log_path = settings.cache_dir / "builds" / (name.replace("/", "_").replace(":", "_") + ".log")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    labels = {"capstan.kind": "image", "capstan.task": spec.task_name}
    last: deque[str] = deque(maxlen=_ERROR_LINES)
    if _NEEDS_BUILDKIT.search(dockerfile.read_text(encoding="utf-8", errors="replace")):
        failed = await _build_by_cli(spec.context_dir, name, settings, labels, log_path, last)
    else:
        failed = await _build_by_api(engine, spec.context_dir, name, settings, labels, log_path, last)
    if failed:
        end = "\n".join(last)
        raise EnvironmentStartError(
            f"{dockerfile}: the build failed: {failed} (whole log: {log_path}); its end:\n{end}"
        )


async def _build_by_api(
    engine: Engine,
    context: Path,
    name: str,
    settings: DockerSettings,
    labels: dict[str, str],
    log_path: Path,
    last: deque[str],
) -> str | None:
    progress = Progress()
    failures: list[str] = []

    def work() -> None:
        with log_path.open("w", encoding="utf-8") as log:

            def each(event: dict[str, Any]) -> None:
                text = str(event.get("stream") or event.get("error") or event.get("status") or "")
                log.write(text if text.endswith("\n") else text + "\n")
                log.flush()
                last.extend(line for line in text.splitlines() if line.strip())
                if "error" in event:
                    failures.append(str(event["error"]))

            network = settings.build_network or None
            events = progress.client.build(
                path=str(context),
                tag=name,
                rm=True,
                forcerm=True,
                network_mode=network,
                labels=labels,
                decode=True,
            )
            progress.follow(events, each)

    try:
        await _abortable(engine, progress, work)
    except (APIError, BuildError, TypeError) as error:
        return str(getattr(error, "explanation", None) or error)
    return failures[0] if failures else None


async def _build_by_cli(
    context: Path,
    name: str,
    settings: DockerSettings,
    labels: dict[str, str],
    log_path: Path,
    last: deque[str],
) -> str | None:
    if shutil.which("docker") is None:
        return "its Dockerfile needs BuildKit: install the docker command with its buildx plugin"
    command = ["docker", "build", "--progress", "plain", "--tag", name]
    command += [f"--label={key}={value}" for key, value in labels.items()]
    if settings.build_network:
        command.append(f"--network={settings.build_network}")
    process = await asyncio.create_subprocess_exec(
        *command,
        str(context),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        limit=1024 * 1024,
    )
    assert process.stdout is not None
    try:
        with log_path.open("wb") as log:
            while data := await process.stdout.read(65536):
                log.write(data)
                last.extend(
                    line for line in data.decode("utf-8", errors="replace").splitlines() if line.strip()
                )
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
    return None if code == 0 else f"docker build ended with {code}"


async def _abortable(engine: Engine, progress: Progress, work: Any) -> None:
    """Run a streamed call in a thread; break it off when this task is cancelled."""
    try:
        await engine.call(work)
    except asyncio.CancelledError:
        progress.abort()
        raise


@contextlib.asynccontextmanager
async def one_at_a_time(settings: DockerSettings, name: str) -> AsyncIterator[None]:
    """Hold the lock of one image, across the tasks of this process and across processes."""
    key = (id(asyncio.get_running_loop()), name)
    async with _locks.setdefault(key, asyncio.Lock()):
        folder = settings.cache_dir / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / (re.sub(r"[^A-Za-z0-9._-]", "_", name) + ".lock")).open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_LOCK_POLL_SEC)
            yield
