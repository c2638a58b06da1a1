"""What runners that were killed left behind, in the engine and on the disk."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Literal

from runner.environments import EnvironmentLost

ENGINE_TIMEOUT_SEC = 30.0

Where = Literal["docker", "sandbox"]


async def remove_leftovers(
    where: tuple[Where, ...] = ("sandbox", "docker"), *, everything: bool = False, images: bool = False
) -> list[str]:
    """Remove what dead runners made; the names of what was removed, each with what it was.

    Found by label and owner, so that nothing of a runner that lives is touched unless `everything` is set.
    An engine that does not answer has nothing removed. `images`: the images built for tasks, too.
    """
    from runner.agents.host import remove_stale_agents

    removed = [f"folder {path}" for path in await asyncio.to_thread(remove_stale_agents)]
    if "sandbox" in where:
        from runner.environments.sandbox.environment import remove_stale_sandboxes

        removed += [f"sandbox {path}" for path in await asyncio.to_thread(remove_stale_sandboxes)]
    if "docker" in where:
        from runner.dind.exchange import sweep

        removed += [f"folder {path}" for path in await asyncio.to_thread(sweep)]
        removed += await _in_docker(everything=everything, images=images)
    return removed


async def _in_docker(*, everything: bool, images: bool) -> list[str]:
    from docker.errors import DockerException

    from runner.environments.docker import clean_up, shared_engine

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
