"""The messages between the head, a Ray task or actor, and the node runner.

A frame is a line of JSON and as many bytes as its `size` says. Each request to a node runner is a
connection of its own, over the unix socket in the node runner's folder.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from runner.environments import EnvironmentKind
from runner.results import AgentRecord, ModelSource, ModelUse, TrialRecord

FRAME_BYTES = 64 * 1024 * 1024
"""The longest line of JSON."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class TaskParcel(_Message):
    """A task of a job as it travels. `number` is its place in the job's lock.

    Attributes:
        recorded_path: The task's folder on the head, as records name it.
        folder: The name of its folder.
    """

    number: int
    name: str
    folder: str
    recorded_path: str
    dataset: str
    digest: str


class OpenJob(_Message):
    """To a node runner: be ready for the trials of a job, whose files are in its folder.

    Attributes:
        key: The name of the job's folder on the node.
        lock: The job's lock, without its trials.
        recorded_root: The job's folder on the head.
        model_mode, scripted: What the head's relay reports for its answers; "none" without one.
        relay_url, relay_certificate: Where the head's relay is, and its certificate (PEM).
        images, pull: The settings of the head that say where images come from.
    """

    type: Literal["open_job"] = "open_job"
    key: str
    lock: str
    recorded_root: str
    environment_kind: EnvironmentKind
    agent: AgentRecord
    model: ModelSource
    model_mode: str
    scripted: bool
    relay_url: str | None
    relay_certificate: str | None
    tasks: list[TaskParcel]
    images: dict[str, str]
    pull: bool


class CloseJob(_Message):
    """To a node runner: the job is over. What it left is removed."""

    type: Literal["close_job"] = "close_job"
    key: str


class RunTrial(_Message):
    """To a node runner: run one try of a trial. The answer is `Placed`, then `FromTrial`.

    Attributes:
        task: The number of the task in the job's lock.
        environ: The host's variables that the task names.
        token: That of its account at the head's relay; None for an agent that needs no model.
    """

    type: Literal["run_trial"] = "run_trial"
    key: str
    trial_name: str
    attempt: int
    task: int
    environ: dict[str, str] = Field(repr=False)
    retries: int
    token: str | None = Field(repr=False)


class CancelTrial(_Message):
    """To a node runner: cancel this try. Its `TrialEnded` still follows."""

    type: Literal["cancel_trial"] = "cancel_trial"
    key: str
    trial_name: str


class BringImage(_Message):
    """To a node runner: pull or build the image of a task. `Done` then says which one it has.

    Attributes:
        key: The name of a folder below that of the node runner, which is removed at the end.
        folder: The name of the task's folder in it.
        build: Build the image from its Dockerfile, also for a task that names another.
        force: Build it anew.
        images, pull: The settings of the head that say where images come from.
    """

    type: Literal["bring_image"] = "bring_image"
    key: str
    folder: str
    build: bool
    force: bool
    images: dict[str, str]
    pull: bool


class AskStatus(_Message):
    """To a node runner: answer with `NodeStatus`."""

    type: Literal["status"] = "status"


class Attend(_Message):
    """To a node runner: end when this connection closes."""

    type: Literal["attend"] = "attend"


class Placed(_Message):
    """From a node runner: the trial begins there."""

    type: Literal["placed"] = "placed"
    node: str


class TrialMoved(_Message):
    """A running trial's phase or model usage has changed."""

    type: Literal["moved"] = "moved"
    phase: str
    usage: ModelUse | None


class FilePart(_Message):
    """What was added to a file of a running trial, as payload; at offset 0 its whole content."""

    type: Literal["file_part"] = "file_part"
    name: str
    offset: int


class FolderPart(_Message):
    """A part of the archive of the trial's folder, as payload."""

    type: Literal["folder_part"] = "folder_part"


class TrialEnded(_Message):
    """A try of a trial has ended; its folder came before this."""

    type: Literal["ended"] = "ended"
    record: TrialRecord
    infrastructure: bool


class TrialLost(_Message):
    """The node runner could not run the trial, or could not keep its files."""

    type: Literal["lost"] = "lost"
    error: str


class Refused(_Message):
    """The node takes no trials now, for this reason. `job`: none of this job, others it may."""

    type: Literal["refused"] = "refused"
    node: str
    reason: str
    job: bool = False


class Done(_Message):
    """What was asked for has been done; `text` says it to a person."""

    type: Literal["done"] = "done"
    text: str = ""


class Failed(_Message):
    """What was asked for cannot be done."""

    type: Literal["failed"] = "failed"
    reason: str


class NodeStatus(_Message):
    """The state of a node.

    Attributes:
        problem: Why it takes no trials now, or None.
        engine: What is wrong with its Docker engine, or None.
        sandbox: What is wrong with its sandbox, or None.
        free_bytes: Free bytes of the disk with the node runner's folder.
        free_memory_mb: The MiB of memory that programs can have.
        images: The names of the images that its engine has.
        running: The trials that run there.
    """

    type: Literal["node_status"] = "node_status"
    problem: str | None
    engine: str | None
    sandbox: str | None
    free_bytes: int
    free_memory_mb: int
    images: list[str]
    running: list[str]


FromTrial = Placed | TrialMoved | FilePart | FolderPart | TrialEnded | TrialLost | Refused
Request = OpenJob | CloseJob | RunTrial | CancelTrial | BringImage | AskStatus | Attend
Answer = Done | Failed | NodeStatus
_FROM_TRIAL: TypeAdapter[FromTrial] = TypeAdapter(Annotated[FromTrial, Field(discriminator="type")])
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="type")])


def frame(message: BaseModel, payload: bytes = b"") -> bytes:
    """Return a message as it travels."""
    return b"%d\n%s\n%s" % (len(payload), message.model_dump_json().encode(), payload)


def parse_from_trial(data: bytes) -> tuple[FromTrial, bytes]:
    """Return the message of a whole frame, and its payload. Raises ValueError."""
    size, text, payload = data.split(b"\n", 2)
    if len(payload) != int(size):
        raise ValueError(f"a frame of {len(payload)} bytes that names {int(size)}")
    return _FROM_TRIAL.validate_json(text), payload


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Return the request of a connection, or None if there is none. Raises ValueError."""
    data = await _read_frame(reader)
    return None if data is None else _REQUEST.validate_json(data.split(b"\n", 2)[1])


async def ask(folder: Path, request: Request) -> Answer:
    """Send a request to the node runner of a folder and return its answer.

    Raises:
        OSError: The node runner is not there, or went away.
    """
    reader, writer = await asyncio.open_unix_connection(socket_in(folder), limit=FRAME_BYTES)
    try:
        writer.write(frame(request))
        await writer.drain()
        data = await _read_frame(reader)
    except asyncio.IncompleteReadError:
        data = None
    finally:
        writer.close()
    if data is None:
        raise ConnectionResetError("the node runner went away")
    return _ANSWER.validate_json(data.split(b"\n", 2)[1])


async def _read_frame(reader: asyncio.StreamReader) -> bytes | None:
    head = await reader.readline()
    if not head.endswith(b"\n"):
        return None
    text = await reader.readline()
    return head + text + await reader.readexactly(int(head))


def socket_in(folder: Path) -> Path:
    """Return the socket of the node runner of a folder."""
    return folder / "runner.sock"
