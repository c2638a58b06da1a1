"""`capstan images`: build, pull and list the images of tasks before a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.common import (
    Exclude,
    Include,
    JsonFlag,
    TaskPaths,
    fail,
    load_datasets,
    print_json,
    setting,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runner.config import RunConfig
    from runner.environments import DockerSettings, EnvironmentSpec
    from runner.environments.docker import Engine, ImageInfo
    from runner.executors.ray.cluster import Cluster, Node
    from runner.tasks import Task

app = typer.Typer(
    help="Build, pull and list the images of tasks.", no_args_is_help=True, rich_markup_mode=None
)

AtOnce = Annotated[int, typer.Option("-n", "--concurrency", min=1, help="Images at once, on each node.")]
ImagePlace = Annotated[
    str | None,
    setting(
        "--on",
        metavar="PLACE",
        help="Whose engines get the images: here, ray, ray=HOST:PORT or ray=local.",
        default="here",
    ),
]


@app.command("build")
def build(
    paths: TaskPaths,
    include: Include = None,
    exclude: Exclude = None,
    at_once: AtOnce = 2,
    force: Annotated[bool, typer.Option("--force", help="Rebuild images that are there.")] = False,
    on: ImagePlace = None,
) -> None:
    """Build the images of tasks from their Dockerfiles.

    Each build gets a name of its own, capstan-task/…. A task uses it if the image that it names is
    not here, or if the variable TASK_IMAGES says so.
    """
    from runner.environments.docker import build_image, find_local
    from runner.jobs.errors import NothingToRun

    config = _place(on)
    unused: list[str] = []

    async def work(engine: Engine, spec: EnvironmentSpec, settings: DockerSettings) -> ImageInfo:
        image = await build_image(engine, spec, settings, force=force)
        used = await find_local(engine, spec, settings)
        if used is not None and used.name != image.name:
            unused.append(f"{spec.task_name}={image.name}")
        return image

    tasks = [
        task for task in _load(paths, include, exclude) if (task.environment_dir / "Dockerfile").is_file()
    ]
    if not tasks:
        raise NothingToRun("no task has a Dockerfile, so there is no image to build")
    if config.cluster is not None:
        raise typer.Exit(_on_nodes(config, tasks, at_once, "built", build=True, force=force))
    code = _for_each(tasks, work, at_once, "built")
    if unused:
        sys.stdout.write(
            f"{len(unused)} of these tasks use another image that is here; to use the builds: "
            f"TASK_IMAGES={','.join(sorted(unused))}\n"
        )
    raise typer.Exit(code)


@app.command("pull")
def pull(
    paths: TaskPaths,
    include: Include = None,
    exclude: Exclude = None,
    at_once: AtOnce = 4,
    on: ImagePlace = None,
) -> None:
    """Pull the images of tasks, and build those of tasks that name none."""
    from runner.environments.docker import ensure_image

    config = _place(on)
    tasks = _load(paths, include, exclude)
    if config.cluster is not None:
        raise typer.Exit(_on_nodes(config, tasks, at_once, "there", build=False, force=False))
    raise typer.Exit(_for_each(tasks, ensure_image, at_once, "here"))


@app.command("list")
def list_images(
    paths: TaskPaths, include: Include = None, exclude: Exclude = None, as_json: JsonFlag = False
) -> None:
    """List the images of tasks, and whether they are here."""
    import asyncio

    from rich.table import Table

    from runner.cli.tables import make_console

    async def look() -> list[dict[str, str | None]]:
        engine, settings = await _engine(), _docker_settings()
        rows: list[dict[str, str | None]] = []
        for task in _load(paths, include, exclude):
            name, image = await find_task_image(engine, task, settings)
            rows.append({"task": task.name, "image": name, "id": image.id if image else None})
        return rows

    rows = asyncio.run(look())
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("task", "image", "here"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(row["task"], row["image"], (row["id"] or "no")[:19])
    make_console(sys.stdout).print(table)


async def find_task_image(
    engine: Engine, task: Task, settings: DockerSettings
) -> tuple[str, ImageInfo | None]:
    """Return the name of a task's image, and the image if it is here."""
    from runner.environments.docker import find_local, local_names
    from runner.trials.environment import environment_spec

    spec = environment_spec(task)
    image = await find_local(engine, spec, settings)
    return image.name if image else next(iter(local_names(spec, settings)), "none"), image


def _for_each(
    tasks: list[Task],
    work: Callable[[Engine, EnvironmentSpec, DockerSettings], Awaitable[ImageInfo]],
    at_once: int,
    done: str,
) -> int:
    """Do the work for each task, and print its end. Return 1 where one failed, else 0."""
    import asyncio
    import time

    from runner.environments import EnvironmentFailure
    from runner.results import format_seconds
    from runner.trials.environment import environment_spec

    failures = 0

    async def one(engine: Engine, task: Task, settings: DockerSettings, turn: asyncio.Semaphore) -> None:
        nonlocal failures
        async with turn:
            sys.stdout.write(f"{task.name}: …\n")
            sys.stdout.flush()
            began = time.monotonic()
            try:
                image = await work(engine, environment_spec(task), settings)
            except EnvironmentFailure as error:
                failures += 1
                fail(str(error))
            else:
                took = format_seconds(time.monotonic() - began)
                sys.stdout.write(f"{task.name}: {done}: {image.name} ({took})\n")
                sys.stdout.flush()

    async def everything() -> None:
        engine, settings = await _engine(), _docker_settings()
        turn = asyncio.Semaphore(at_once)
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(one(engine, task, settings, turn))

    asyncio.run(everything())
    sys.stdout.write(f"{len(tasks) - failures} of {len(tasks)} {done}\n")
    return 1 if failures else 0


def _on_nodes(
    config: RunConfig, tasks: list[Task], at_once: int, done: str, *, build: bool, force: bool
) -> int:
    """Have every node that offers Docker get the images. Return 1 where one failed, else 0.

    Prints a line for each node and task.
    """
    import asyncio
    import time

    from runner.executors.open import open_nodes
    from runner.executors.ray.messages import Done, Failed
    from runner.results import format_seconds

    settings = _docker_settings()
    failures, total = 0, 0

    async def one(cluster: Cluster, node: Node, task: Task, turn: asyncio.Semaphore) -> None:
        nonlocal failures
        async with turn:
            began = time.monotonic()
            answer = await cluster.bring_image(node, task.path, settings, build=build, force=force)
            took = format_seconds(time.monotonic() - began)
        match answer:
            case Done(text=image):
                sys.stdout.write(f"{node.name}: {task.name}: {done}: {image} ({took})\n")
                sys.stdout.flush()
            case _:
                failures += 1
                reason = answer.reason if isinstance(answer, Failed) else "no answer"
                fail(f"{node.name}: {task.name}: {reason}")

    async def everything() -> None:
        nonlocal failures, total
        async with open_nodes(config) as cluster:
            nodes = cluster.docker_nodes()
            total = len(nodes) * len(tasks)
            async with asyncio.TaskGroup() as group:
                for node in nodes:
                    if not node.ready:
                        failures += len(tasks)
                        fail(f"{node.name}: {node.problem or 'its node runner did not start'}")
                        continue
                    turn = asyncio.Semaphore(at_once)
                    for task in tasks:
                        group.create_task(one(cluster, node, task, turn))

    asyncio.run(everything())
    sys.stdout.write(f"{total - failures} of {total} {done}\n")
    return 1 if failures else 0


def _place(on: str | None) -> RunConfig:
    from runner.config import load_config

    return load_config({"on": on}).config


def _docker_settings() -> DockerSettings:
    import os

    from runner.config import ConfigError
    from runner.environments import DockerSettings

    try:
        return DockerSettings.from_environment(os.environ)
    except ValueError as error:
        raise ConfigError(str(error)) from None


async def _engine() -> Engine:
    from docker.errors import DockerException

    from runner.environments.docker import shared_engine
    from runner.jobs.errors import JobError

    try:
        engine = shared_engine()
    except DockerException as error:
        raise JobError(f"no Docker engine: {error}; `capstan doctor` says what to do") from None
    if not await engine.answers():
        raise JobError("no Docker engine answers; `capstan doctor` says what to do")
    return engine


def _load(paths: list[Path], include: list[str] | None, exclude: list[str] | None) -> list[Task]:
    """Load the tasks. Broken ones are reported on stderr."""
    tasks: list[Task] = []
    for dataset in load_datasets(paths, include, exclude):
        for error in dataset.broken:
            fail(str(error))
        tasks.extend(dataset.tasks)
    return tasks
