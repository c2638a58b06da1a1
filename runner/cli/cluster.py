"""`capstan cluster`: the nodes of a Ray cluster."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from runner.cli.common import ConfigFile, JsonFlag, print_json, setting


def cluster(
    on: Annotated[
        str | None,
        setting(
            "--on",
            metavar="PLACE",
            help="The cluster: ray, ray=HOST:PORT or ray=local.",
            default="ray",
        ),
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="Also name the images of each node.")] = False,
    trials: Annotated[
        bool, typer.Option("--trials", help="Also name the trials that run on each node.")
    ] = False,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the nodes of a Ray cluster, and what of them is free.

    Free CPUs and memory are those that Ray has not promised to anyone. Trials are those of all jobs
    that you run. Of other users and other programs, only what they take is seen.
    """
    import asyncio

    from runner.cli.nodes import look, print_nodes
    from runner.config import ConfigError, load_config

    settings = load_config({"on": on}, file=config).config
    if settings.cluster is None:
        if on is not None:
            raise ConfigError(f"--on: must be a cluster: ray, ray=HOST:PORT or ray=local, got {on!r}")
        settings = settings.model_copy(update={"on": "ray"})
    found = asyncio.run(look(settings))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_nodes(found, sys.stdout, images=images, trials=trials)
