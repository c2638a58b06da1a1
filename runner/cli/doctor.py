"""`capstan doctor`, `config` and `cleanup`: this machine, the settings, and leftovers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.common import ConfigFile, JsonFlag, Place, print_json

if TYPE_CHECKING:
    from runner.config import RunConfig


def doctor(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="TASKS", help="Also check which of these tasks can run, and their images."),
    ] = None,
    on: Place = None,
    as_json: JsonFlag = False,
) -> None:
    """Check whether this machine, or a cluster, can run jobs.

    Checks Docker, the sandbox, proot, the key, the disk, the memory, and the tasks that are named.
    With --on ray it says what each node lacks. Exit code 1 where no task could run.
    """
    import asyncio
    import dataclasses
    import json

    from runner.cli.checks import examine, is_usable

    config = _on_cluster(on)
    if config is None:
        checks = asyncio.run(examine(tasks or []))
        usable = is_usable(checks)
    else:
        from runner.cli.node_checks import examine_cluster

        checks, usable = asyncio.run(examine_cluster(config, tasks or []))
    if as_json:
        sys.stdout.write(json.dumps([dataclasses.asdict(check) for check in checks]) + "\n")
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            sys.stdout.write(f"{check.state:7} {check.name:{width}}  {check.found}\n")
            if check.remedy:
                sys.stdout.write(f"{'':7} {'':{width}}  → {check.remedy}\n")
    raise typer.Exit(0 if usable else 1)


def _on_cluster(on: str | None) -> RunConfig | None:
    """Return the settings if they name a cluster. Raises ConfigError for a wrong --on."""
    from runner.config import ConfigError, load_config

    try:
        config = load_config({"on": on}).config
    except ConfigError:
        if on is not None:
            raise
        return None  # a check says it
    return None if config.cluster is None else config


def show_settings(config: ConfigFile = None, as_json: JsonFlag = False) -> None:
    """Show every setting and where its value comes from."""
    from runner.config import RunConfig, load_config

    resolved = load_config(file=config)
    values: dict[str, str | float | list[str] | None] = resolved.config.model_dump(mode="json")
    key = "not set" if resolved.secrets.api_key is None else "********"
    if as_json:
        document = {name: {"value": values[name], "origin": resolved.origins[name]} for name in values}
        document["DEEPSEEK_API_KEY"] = {"value": key, "origin": resolved.key_origin}
        print_json(document)
        return
    from rich.table import Table

    from runner.cli.tables import make_console

    table = Table(box=None, pad_edge=False)
    for column in ("setting", "value", "from", "meaning"):
        table.add_column(column)
    for name, value in values.items():
        shown = "" if value is None else " ".join(value) if isinstance(value, list) else str(value)
        table.add_row(name, shown, resolved.origins[name], RunConfig.model_fields[name].description)
    table.add_row("DEEPSEEK_API_KEY", key, resolved.key_origin or "", "the real key; only the relay holds it")
    make_console(sys.stdout).print(table)


def cleanup(
    everything: Annotated[
        bool, typer.Option("--all", help="Also remove what belongs to live runners.")
    ] = False,
    images: Annotated[
        bool,
        typer.Option("--images", help="Also remove built images and the isolated runner's image stores."),
    ] = False,
) -> None:
    """Remove what killed runners left behind.

    These are containers, networks, volumes, sandboxes and folders. Nothing of a live runner is
    removed. Every run does the same when it starts.
    """
    import asyncio

    from runner.executors.cleanup import remove_leftovers

    removed = asyncio.run(remove_leftovers(everything=everything, images=images))
    for thing in removed:
        sys.stdout.write(f"removed {thing}\n")
    if not removed:
        sys.stdout.write("nothing was left behind\n")
