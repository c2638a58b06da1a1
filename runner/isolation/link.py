"""The messages between the two sides of an isolated run: JSON lines over a unix socket.

The inner side exits when the connection closes.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from runner.results import AgentRecord, ModelSource, ModelUse, TrialRecord

LINE_BYTES = 64 * 1024 * 1024


class Ready(BaseModel):
    """From the inner side: the engine answers, and images can be loaded."""

    type: Literal["ready"] = "ready"


class Note(BaseModel):
    """From the inner side: a line to show to the user."""

    type: Literal["note"] = "note"
    line: str
    warning: bool = True


class TrialMoved(BaseModel):
    """From the inner side: a trial's phase or model usage has changed."""

    type: Literal["moved"] = "moved"
    number: int
    phase: str
    usage: ModelUse | None


class TrialEnded(BaseModel):
    """From the inner side: a try of a trial has ended, and its record is in its folder."""

    type: Literal["ended"] = "ended"
    number: int
    record: TrialRecord
    infrastructure: bool


class TrialLost(BaseModel):
    """From the inner side: the files of a trial could not be written, with the system's error."""

    type: Literal["lost"] = "lost"
    number: int
    error: str
    errno: int | None = None


class FreeSpace(BaseModel):
    """From the inner side, for `MeasureSpace`: the free bytes of the inner engine's disk."""

    type: Literal["free_space"] = "free_space"
    free_bytes: int


class Failed(BaseModel):
    """From the inner side, as its last message: the reason why no trial can run."""

    type: Literal["failed"] = "failed"
    message: str
    reason: str | None = None


class Setup(BaseModel):
    """From the outer side, first: what all trials share. Paths are the same on both sides.

    Attributes:
        recorded_root: The job's folder as records name it.
        agent, model: As the records describe them.
        model_mode, scripted: What the outer relay reports for its answers; "none" without one.
        uid, gid: The owner of the files that are written.
    """

    type: Literal["setup"] = "setup"
    job_dir: str
    recorded_root: str
    agent: AgentRecord
    model: ModelSource
    model_mode: str
    scripted: bool
    uid: int
    gid: int


class RunTrial(BaseModel):
    """From the outer side: run one try of a trial.

    Attributes:
        recorded_path: The task's folder as records name it.
        image: The name of the task's image in the inner engine.
        environ: The host's variables that the task names.
        token: That of its account at the outer relay; None for an agent that needs no model.
    """

    type: Literal["run"] = "run"
    number: int
    trial_name: str
    attempt: int
    task_path: str
    recorded_path: str
    dataset: str
    image: str
    environ: dict[str, str] = Field(repr=False)
    retries: int
    token: str | None = Field(repr=False)


class CancelTrial(BaseModel):
    """From the outer side: cancel this try. `TrialEnded` still follows."""

    type: Literal["cancel"] = "cancel"
    number: int


class MeasureSpace(BaseModel):
    """From the outer side: answer with `FreeSpace`."""

    type: Literal["measure_space"] = "measure_space"


FromInner = Ready | Note | TrialMoved | TrialEnded | TrialLost | FreeSpace | Failed
FromOuter = Setup | RunTrial | CancelTrial | MeasureSpace
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
        """Return the next message, or None if the peer is gone. Raises ValueError."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return _MESSAGES.validate_json(line) if line.endswith(b"\n") else None

    async def close(self) -> None:
        """Send what is queued, then close the connection."""
        with contextlib.suppress(OSError, RuntimeError):
            await self._writer.drain()
            self._writer.close()
            await self._writer.wait_closed()
