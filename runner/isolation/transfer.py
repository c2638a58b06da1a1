"""Bring task images into the inner engine."""

from __future__ import annotations

import docker
from docker.errors import APIError, ImageNotFound

from runner.environments.docker import Engine, ImageInfo
from runner.jobs.errors import JobError

_TIMEOUT_SEC = 900


def bring_image(engine: Engine, inner_socket: str, image: ImageInfo) -> bool:
    """Load an image into the inner engine if it lacks it, and tag it. Blocks.

    Returns whether it was loaded. Raises JobError where an engine refuses.
    """
    inner = docker.DockerClient(base_url=f"unix://{inner_socket}", timeout=_TIMEOUT_SEC)
    try:
        missing = not _has(inner, image.id)
        if missing:
            inner.images.load(engine.api.get_image(image.name))
        if not _has(inner, image.name, image.id):
            inner.images.get(image.id).tag(*_split(image.name))
        return missing
    except APIError as error:
        raise JobError(f"{image.name} cannot be brought in: {error.explanation or error}") from error
    finally:
        inner.close()


def _has(inner: docker.DockerClient, name: str, image_id: str | None = None) -> bool:
    try:
        return image_id in (None, inner.images.get(name).id)
    except ImageNotFound:
        return False


def _split(name: str) -> tuple[str, str | None]:
    repository, sign, tag = name.rpartition(":")
    return (repository, tag) if sign and "/" not in tag else (name, None)
