"""Removes what killed runners left behind, in the engine and on the disk."""

from __future__ import annotations

import asyncio
import dataclasses

from docker.errors import DockerException

from runner.agents.host import remove_stale_agents
from runner.environments import EnvironmentKind, EnvironmentLost
from runner.environments.docker import clean_up, shared_engine
from runner.environments.owner import PREFIX, remove_orphans
from runner.environments.rootfs import remove_stale_roots
from runner.isolation.shared_dir import remove_stale_shared_dirs

ENGINE_TIMEOUT_SEC = 30.0
NODE_PREFIX = f"{PREFIX}node-"
"""Start of the names of the folders of node runners (runner.executors.ray)."""
PRIVATE_RAY_PREFIX = f"{PREFIX}ray-"
"""Start of the names of the folders of private Rays."""
PRIVATE_RAY_PLACE = "/tmp"  # not TMPDIR: Ray's sockets need short names


async def remove_leftovers(
    kinds: tuple[EnvironmentKind, ...] = ("docker", "sandbox", "proot"),
    *,
    everything: bool = False,
    images: bool = False,
) -> list[str]:
    """Remove what dead runners made. Return a name for each thing removed.

    It is found by label and owner, so nothing of a live runner is touched unless `everything` is
    set. An engine that does not answer is left alone.

    Args:
        everything: Remove what belongs to live runners as well.
        images: Remove the images built for tasks as well.
    """
    removed = [f"folder {path}" for path in await asyncio.to_thread(remove_stale_agents)]
    removed += [f"folder {path}" for path in await asyncio.to_thread(remove_orphans, NODE_PREFIX)]
    found = await asyncio.to_thread(remove_orphans, PRIVATE_RAY_PREFIX, [PRIVATE_RAY_PLACE])
    removed += [f"folder {path}" for path in found]
    if "sandbox" in kinds or "proot" in kinds:
        removed += [f"sandbox {path}" for path in await asyncio.to_thread(remove_stale_roots)]
    if "docker" in kinds:
        removed += [f"folder {path}" for path in await asyncio.to_thread(remove_stale_shared_dirs)]
        removed += await _remove_from_docker(everything=everything, images=images)
    return removed


async def _remove_from_docker(*, everything: bool, images: bool) -> list[str]:
    try:
        engine = shared_engine()
        if not await engine.answers():
            return []
        report = await asyncio.wait_for(
            clean_up(engine, everything=everything, images=images), ENGINE_TIMEOUT_SEC
        )
    except (DockerException, EnvironmentLost, TimeoutError):
        return []
    found = dataclasses.asdict(report)
    return [f"{kind.removesuffix('s')} {name}" for kind, names in found.items() for name in names]
