"""The messages between the two sides of an isolated run: JSON lines over a unix socket.

Its end is a message as well: the inner side exits when it can no longer hear the outer side.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from runner.results import AgentRecord, ModelSource, ModelUse, TrialRecord

LINE_BYTES = 64 * 1024 * 1024


class Ready(BaseModel):
    """Inner: the engine answers; images may come."""

    type: Literal["ready"] = "ready"


class Note(BaseModel):
    """Inner: a line for a person."""

    type: Literal["note"] = "note"
    line: str
    warning: bool = True


class TrialMoved(BaseModel):
    """Inner: a trial is in another phase or has used more of the model."""

    type: Literal["moved"] = "moved"
    number: int
    phase: str
    usage: ModelUse | None


class TrialEnded(BaseModel):
    """Inner: a try of a trial has its record, which is in its folder."""

    type: Literal["ended"] = "ended"
    number: int
    record: TrialRecord
    infrastructure: bool


class TrialLost(BaseModel):
    """Inner: the files of a trial could not be written."""

    type: Literal["lost"] = "lost"
    number: int
    error: str


class Failed(BaseModel):
    """Inner, last: no trial can be run, for this reason."""

    type: Literal["failed"] = "failed"
    message: str
    reason: str | None = None


class Setup(BaseModel):
    """Outer, first: what the trials share. All paths are the same on both sides.

    Attributes:
        job_dir: The job's folder, with its lock.json.
        agent, model: What the records say of them.
        model_mode, scripted: What the outer relay says of its answers.
        image_variables: Variables that say how images are named.
        uid, gid: The owner of what is written.
    """

    type: Literal["setup"] = "setup"
    job_dir: str
    agent: AgentRecord
    model: ModelSource
    model_mode: str
    scripted: bool
    image_variables: dict[str, str]
    uid: int
    gid: int


class RunTrial(BaseModel):
    """Outer: run one try of a trial. `token` is its account at the outer relay, if it needs a model."""

    type: Literal["run"] = "run"
    number: int
    trial_name: str
    attempt: int
    task_path: str
    dataset: str
    retries: int
    token: str | None = Field(repr=False)


class CancelTrial(BaseModel):
    """Outer: end this try in an orderly way; `TrialEnded` still comes."""

    type: Literal["cancel"] = "cancel"
    number: int


FromInner = Ready | Note | TrialMoved | TrialEnded | TrialLost | Failed
FromOuter = Setup | RunTrial | CancelTrial
_Any = Annotated[FromInner | FromOuter, Field(discriminator="type")]
_MESSAGES: TypeAdapter[FromInner | FromOuter] = TypeAdapter(_Any)


class Link:
    """One end of the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: BaseModel) -> None:
        """Queue a message for sending. A peer that is gone is noticed by `receive`."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._writer.write(message.model_dump_json().encode() + b"\n")

    async def receive(self) -> FromInner | FromOuter | None:
        """Return the next message; None where the peer is gone. Raises ValueError for anything else."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return _MESSAGES.validate_json(line) if line.endswith(b"\n") else None

    async def close(self) -> None:
        """Send what is queued, and hang up."""
        with contextlib.suppress(OSError, RuntimeError):
            await self._writer.drain()
            self._writer.close()
            await self._writer.wait_closed()
