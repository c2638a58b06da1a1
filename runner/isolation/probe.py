"""Check for `capstan doctor` whether this host can run `--isolation dind`."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from docker.errors import APIError, DockerException

from runner.environments import EnvironmentLost
from runner.environments.docker import Engine, shared_engine
from runner.environments.docker.container import LABEL_KIND, LABEL_OWNER
from runner.environments.owner import PREFIX, current_owner
from runner.isolation.container import ISOLATED_KIND
from runner.isolation.image import REPOSITORY, base_image


@dataclass(frozen=True)
class ProbeResult:
    """Whether the host can, a sentence about it, and the remedy where there is one."""

    usable: bool
    message: str
    remedy: str | None = None


async def probe() -> ProbeResult:
    """Check the engine's address, its images, and whether a privileged container starts.

    Starts one container, and removes it.
    """
    engine = shared_engine()
    base_url = str(engine.api.base_url)
    if not base_url.startswith("http+docker://"):
        return ProbeResult(False, f"the engine at {base_url} is not on this machine", "unset DOCKER_HOST")
    try:
        image = await engine.call(_find_image, engine)
        if image is None:
            base = base_image()
            return ProbeResult(
                True,
                f"its image will be built from {base}, which the engine does not have yet",
                f"docker pull {base}",
            )
        await engine.call(_start_privileged, engine, image)
    except (APIError, EnvironmentLost, DockerException) as error:
        words = str(getattr(error, "explanation", None) or error)
        remedy = "use a host whose engine may run privileged containers, or --isolation process"
        if "caps" in words:  # a capability that this host lacks
            remedy = "let the engine's runtime leave out the capabilities that this host lacks"
        return ProbeResult(False, f"privileged containers do not start: {words}", remedy)
    return ProbeResult(True, "privileged containers start; --isolation dind can run")


def _find_image(engine: Engine) -> str | None:
    """Return the id of the runner's image or of its base, whichever the engine has."""
    for name in (REPOSITORY, base_image()):
        found: list[dict[str, Any]] = engine.api.images(name=name)
        if found:
            return str(found[0]["Id"])
    return None


def _start_privileged(engine: Engine, image: str) -> None:
    container = engine.client.containers.create(
        image,
        ["true"],
        name=f"{PREFIX}probe-{secrets.token_hex(4)}",
        labels={LABEL_KIND: ISOLATED_KIND, LABEL_OWNER: current_owner()},
        privileged=True,
        network_mode="none",
    )
    try:
        container.start()
    finally:
        container.remove(force=True, v=True)
