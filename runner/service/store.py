"""The queue: what was asked and how far it came, in a SQLite file. Results are in the jobs' folders alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from runner.config import RunConfig
from runner.jobs import JobError

Kind = Literal["task", "job"]
State = Literal["queued", "running", "waiting_for_key", "completed", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("completed", "failed", "cancelled")

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    config TEXT NOT NULL,
    own_key INTEGER NOT NULL,
    idempotency_key TEXT UNIQUE,
    fingerprint TEXT NOT NULL,
    created_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT,
    error_code TEXT,
    error_message TEXT
);
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE TABLE events (
    job TEXT NOT NULL REFERENCES jobs (id),
    number INTEGER NOT NULL,
    at TEXT NOT NULL,
    type TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class JobEntry:
    """A job as it was asked for. Its id is the name of its folder.

    Attributes:
        own_key: the request brought a key of its own, which is in no file: after a restart it must be sent
            again.
        fingerprint: digest of the request without its key; tells a repeated request from another one.
    """

    number: int
    id: str
    kind: Kind
    state: State
    config: RunConfig
    own_key: bool
    idempotency_key: str | None
    fingerprint: str
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    error_code: str | None = None
    error_message: str | None = None

    @property
    def ended(self) -> bool:
        """Nothing more will happen to it."""
        return self.state in ENDED

    @property
    def folder(self) -> Path:
        """The job's folder, which may not be there yet."""
        return Path(self.config.jobs_dir) / self.id


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; numbers begin at 1 and have no gaps."""

    number: int
    at: str
    type: str
    data: dict[str, Any]


class Store:
    """One writer, in one thread. Every call is one short transaction; a killed process loses none of them."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise JobError(
                f"{path}: no queue of this service ({error}); move it away to begin anew"
            ) from None
        except JobError:
            self._db.close()
            raise

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {_SCHEMA_VERSION};COMMIT;")
        elif version != _SCHEMA_VERSION:
            raise JobError(f"the queue was written by another version of the service (schema {version})")

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def add(
        self,
        job_id: str,
        kind: Kind,
        config: RunConfig,
        *,
        own_key: bool,
        idempotency_key: str | None,
        fingerprint: str,
    ) -> JobEntry:
        """A new job, queued."""
        self._db.execute(
            "INSERT INTO jobs (id, kind, state, config, own_key, idempotency_key, fingerprint, created_at)"
            " VALUES (?, ?, 'queued', ?, ?, ?, ?, ?)",
            (job_id, kind, config.model_dump_json(), own_key, idempotency_key, fingerprint, now()),
        )
        return self.get(job_id)

    def get(self, job_id: str) -> JobEntry:
        """Raises KeyError."""
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise KeyError(job_id)
        return _job(row)

    def find(self, idempotency_key: str) -> JobEntry | None:
        """The job that was asked for with this key."""
        row = self._db.execute("SELECT * FROM jobs WHERE idempotency_key = ?", (idempotency_key,)).fetchone()
        return None if row is None else _job(row)

    def newest(self, limit: int, *, before: int | None = None) -> list[JobEntry]:
        """The last jobs, newest first; `before` is the number of the oldest one seen."""
        bound = 2**62 if before is None else before
        rows = self._db.execute(
            "SELECT * FROM jobs WHERE number < ? ORDER BY number DESC LIMIT ?", (bound, limit)
        )
        return [_job(row) for row in rows]

    def in_state(self, *states: State) -> list[JobEntry]:
        """Jobs in the order in which they came."""
        marks = ",".join("?" * len(states))
        rows = self._db.execute(f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY number", states)
        return [_job(row) for row in rows]

    def count(self, *states: State) -> int:
        """How many jobs there are in these states."""
        marks = ",".join("?" * len(states))
        return self._db.execute(f"SELECT count(*) FROM jobs WHERE state IN ({marks})", states).fetchone()[0]

    def place(self, row: JobEntry) -> int:
        """How many queued jobs come before this one."""
        return self._db.execute(
            "SELECT count(*) FROM jobs WHERE state = 'queued' AND number < ?", (row.number,)
        ).fetchone()[0]

    def set_state(
        self, job_id: str, state: State, *, code: str | None = None, message: str | None = None
    ) -> None:
        """Move a job on; the times follow from the state."""
        self._db.execute(
            "UPDATE jobs SET state = :state, error_code = :code, error_message = :message,"
            " started_at = CASE WHEN :state = 'running' THEN coalesce(started_at, :now) ELSE started_at END,"
            " finished_at = CASE WHEN :ended THEN :now ELSE NULL END WHERE id = :id",
            {
                "id": job_id,
                "state": state,
                "code": code,
                "message": message,
                "now": now(),
                "ended": state in ENDED,
            },
        )

    def add_event(self, job_id: str, kind: str, data: dict[str, Any]) -> Event:
        """Keep an event; it has its number then."""
        at = now()
        (number,) = self._db.execute(
            "INSERT INTO events (job, number, at, type, data)"
            " SELECT ?, coalesce(max(number), 0) + 1, ?, ?, ? FROM events WHERE job = ? RETURNING number",
            (job_id, at, kind, json.dumps(data), job_id),
        ).fetchone()
        return Event(number, at, kind, data)

    def events(self, job_id: str, *, after: int = 0) -> Sequence[Event]:
        """What happened since event number `after`."""
        rows = self._db.execute(
            "SELECT number, at, type, data FROM events WHERE job = ? AND number > ? ORDER BY number",
            (job_id, after),
        )
        return [Event(row["number"], row["at"], row["type"], json.loads(row["data"])) for row in rows]


def now() -> str:
    """Now in UTC, to the millisecond, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _job(row: sqlite3.Row) -> JobEntry:
    values = dict(row)
    values["config"] = RunConfig.model_validate_json(values["config"])
    values["own_key"] = bool(values["own_key"])
    return JobEntry(**values)
