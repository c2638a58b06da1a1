"""Remove what dead runners left in the engine, by label and owner."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from docker.errors import APIError

from runner.environments.docker.container import LABEL_OWNER
from runner.environments.docker.engine import Engine
from runner.environments.owner import is_alive


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """Names of what was removed."""

    containers: list[str] = field(default_factory=list[str])
    networks: list[str] = field(default_factory=list[str])
    volumes: list[str] = field(default_factory=list[str])
    images: list[str] = field(default_factory=list[str])


async def clean_up(engine: Engine, *, everything: bool = False, images: bool = False) -> CleanupReport:
    """Remove containers, networks and volumes with our label whose runner is dead.

    With `everything`, also those of runners that are alive. With `images`, also images built for
    tasks and for the isolated runner, and its image stores. Raises EnvironmentLost.
    """
    return await engine.call(_clean_up, engine.client, everything, images)


def _clean_up(client: Any, everything: bool, images: bool) -> CleanupReport:
    report = CleanupReport()

    def is_ours(entry: Any) -> bool:
        labels: dict[str, str] | None = entry.get("Labels")
        owner = (labels or {}).get(LABEL_OWNER)
        return owner is not None and (everything or not is_alive(owner))

    filters = {"label": LABEL_OWNER}
    for entry in filter(is_ours, client.api.containers(all=True, filters=filters)):
        with contextlib.suppress(APIError):
            client.api.remove_container(entry["Id"], force=True, v=True)
            report.containers.append(str(entry["Names"][0]).lstrip("/"))
    for entry in filter(is_ours, client.api.networks(filters=filters)):
        with contextlib.suppress(APIError):
            client.api.remove_network(entry["Id"])
            report.networks.append(str(entry["Name"]))
    volumes: list[Any] = client.api.volumes(filters=filters)["Volumes"] or []
    for entry in filter(is_ours, volumes):
        with contextlib.suppress(APIError):
            client.api.remove_volume(entry["Name"], force=True)
            report.volumes.append(str(entry["Name"]))
    if images:
        stores: list[Any] = client.api.volumes(filters={"label": "capstan.kind=store"})["Volumes"] or []
        for entry in stores:
            with contextlib.suppress(APIError):  # 409: an isolated run uses it
                client.api.remove_volume(entry["Name"])
                report.volumes.append(str(entry["Name"]))
        for entry in client.api.images(filters={"label": "capstan.kind=image"}):
            with contextlib.suppress(APIError):
                client.api.remove_image(entry["Id"], force=True)
                report.images.extend(entry.get("RepoTags") or [entry["Id"]])
    return report
