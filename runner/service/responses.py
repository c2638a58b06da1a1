"""What the service says of a job, Terminal-Bench-server's answer and our own: read from the job's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from runner.jobs import JobError
from runner.jobs.results import StoredJob, read_job
from runner.pages.trajectory import text_of
from runner.results import TrialRecord, regular_file_inside
from runner.results.scoring import JobSummary
from runner.service.store import JobEntry, State, Store
from runner.web.errors import ServiceError

# A trajectory is an answer's part; a longer one is cut in the middle of long contents, never of the list.
MAX_CONTENT = 100_000
MAX_TRAJECTORY_BYTES = 64 * 2**20
MAX_OUTPUT = 20_000

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "agent": "assistant"}


class Turn(BaseModel):
    """One step of the run."""

    step: int
    role: Role
    content: str


class Evaluation(BaseModel):
    """The last step: what the verifier found."""

    step: int
    action: Literal["evaluation"] = "evaluation"
    output: str


class CallStat(BaseModel):
    """Model calls of the run, as the relay metered them; the cost is in US dollars."""

    model_config = ConfigDict(protected_namespaces=())

    model: str
    api_calls: int
    total_cost: float


class TaskResponse(BaseModel):
    """The answer to `POST /api/tasks` (contracts.md 8). `final_answer`: whether the reward is 1 or more."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "final_answer": "True",
                    "trajectory": [
                        {"step": 1, "role": "user", "content": "Recover the lost commits."},
                        {"step": 2, "role": "assistant", "content": "shell_command(git reflog)"},
                        {"step": 3, "role": "tool", "content": "d7d3e4b HEAD@{0}: checkout"},
                        {"step": 4, "action": "evaluation", "output": "reward: 1"},
                    ],
                    "call_stat": {"model": "deepseek-v4-pro", "api_calls": 2, "total_cost": 0.0031},
                }
            ]
        }
    )

    final_answer: Literal["True", "False"]
    trajectory: list[Turn | Evaluation]
    call_stat: CallStat


class TrialResponse(BaseModel):
    """One attempt at one task."""

    trial: str = Field(examples=["fix-git__k3f9a1x"])
    task: str = Field(examples=["fix-git"])
    attempt: int
    status: Literal["completed", "errored", "cancelled"]
    reward: float | None
    passed: bool
    timed_out: bool
    error: str | None = None
    cost_usd: float | None = None
    seconds: float | None = None
    marks: list[str] = Field(default_factory=list)


class JobResponse(BaseModel):
    """A job and, once it has begun, its figures. `state` `waiting_for_key`: see `error`."""

    id: str = Field(examples=["2026-11-21__05-00-45-k3f9a1"])
    kind: Literal["task", "job"]
    state: State
    place: int | None = Field(None, description="how many queued jobs come before this one")
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    agent: str = Field(description="its own name; before it has run, that of its file")
    model: str = Field(description="where answers come from: live, scripted, replayed", examples=["live"])
    model_name: str = Field(examples=["deepseek-v4-pro"])
    attempts: int
    tasks: int
    error: dict[str, str] | None = None
    summary: JobSummary | None = None
    trials: list[TrialResponse] | None = None


def job_response(entry: JobEntry, store: Store, *, trials: bool) -> JobResponse:
    """What is known of a job now."""
    view = _view(entry)
    failed = entry.error_message is not None
    return JobResponse(
        id=entry.id,
        kind=entry.kind,
        state=entry.state,
        place=store.place(entry) if entry.state == "queued" else None,
        created_at=entry.created_at,
        started_at=entry.started_at,
        finished_at=entry.finished_at,
        agent=view.trials[0].agent.name if view and view.trials else Path(entry.config.agent).name,
        model=view.record.model.label if view else entry.config.mode.label,
        model_name=entry.config.model_name,
        attempts=entry.config.attempts,
        tasks=len(entry.config.tasks),
        error={"code": entry.error_code or "error", "message": entry.error_message or ""} if failed else None,
        summary=view.record.summary if view else None,
        trials=[_trial(record) for record in view.trials] if view and trials else None,
    )


def task_response(entry: JobEntry) -> TaskResponse:
    """The old service's answer for a job of one trial that is over.

    Raises ServiceError where there is no verdict to give: the job failed, or its task never ran.
    """
    if entry.state == "failed":
        raise ServiceError(
            502, entry.error_code or "job_failed", entry.error_message or "the task could not be run"
        )
    if entry.state == "cancelled":
        raise ServiceError(409, "cancelled", "the task was cancelled")
    view = _view(entry)
    if view is None or not view.trials:
        raise ServiceError(500, "result_missing", f"the folder of job {entry.id} is gone")
    record = view.trials[0]
    if record.errored and record.agent.ended is None:
        # Nothing ran: "False" would be a verdict on the model that nobody has reached.
        raise ServiceError(502, "task_failed", record.error or "the task could not be run")
    folder = view.directory.trial(record.trial_name).root
    turns = _turns(folder)
    used = record.metered
    return TaskResponse(
        final_answer="True" if record.passed else "False",
        trajectory=[*turns, Evaluation(step=len(turns) + 1, output=_evaluation(record, folder))],
        call_stat=CallStat(
            model=entry.config.model_name,
            api_calls=used.calls if used else 0,
            total_cost=used.cost_usd if used else 0.0,
        ),
    )


def trajectory_file(entry: JobEntry, trial: str) -> Path:
    """`trajectory.json` of a trial. Raises ServiceError where there is none (yet)."""
    path = regular_file_inside(entry.folder, f"{trial}/agent/trajectory.json") if _is_name(trial) else None
    if path is None:
        raise ServiceError(
            404, "trajectory_missing", "this job has no such trial, or it has no trajectory yet"
        )
    return path


def _is_name(text: str) -> bool:
    return bool(text) and "/" not in text and not text.startswith(".") and text.isprintable()


def _view(entry: JobEntry) -> StoredJob | None:
    try:
        return read_job(entry.folder)
    except JobError:
        return None


def _trial(record: TrialRecord) -> TrialResponse:
    return TrialResponse(
        trial=record.trial_name,
        task=record.task_name,
        attempt=record.attempt,
        status=record.status,
        reward=record.reward,
        passed=record.passed,
        timed_out=record.timed_out,
        error=record.error,
        cost_usd=record.metered.cost_usd if record.metered else None,
        seconds=record.seconds,
        marks=record.marks,
    )


def _evaluation(record: TrialRecord, folder: Path) -> str:
    reward = "none" if record.reward is None else f"{record.reward:g}"
    lines = [f"reward: {reward}"]
    if record.error:
        lines.append(f"error: {record.error}")
    if record.timed_out:
        lines.append("the agent reached its time limit")
    path = regular_file_inside(folder, "verifier/test-stdout.txt")
    if path is not None:
        text = path.read_bytes()[-MAX_OUTPUT:].decode("utf-8", "replace")
        lines += ["", text.strip()]
    return "\n".join(lines).strip()


def _turns(folder: Path) -> list[Turn]:
    """The agent's own trajectory (ATIF), as messages. An agent that wrote none, or nonsense, has no turns."""
    path = regular_file_inside(folder, "agent/trajectory.json")
    if path is None or path.stat().st_size > MAX_TRAJECTORY_BYTES:
        return []
    try:
        steps = json.loads(path.read_bytes())["steps"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    turns: list[Turn] = []
    for step in steps if isinstance(steps, list) else []:
        for role, content in _messages(step) if isinstance(step, dict) else []:
            turns.append(Turn(step=len(turns) + 1, role=role, content=_cut(content)))
    return turns


def _messages(step: dict[str, Any]) -> list[tuple[Role, str]]:
    """A step of ATIF is a message and, of an agent's, its calls and what came back."""
    parts = [text for text in (text_of(step.get("reasoning_content")), text_of(step.get("message"))) if text]
    calls = step.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        if isinstance(call, dict):
            arguments = json.dumps(call.get("arguments"), ensure_ascii=False)
            parts.append(f"{call.get('function_name')}({arguments})")
    found: list[tuple[Role, str]] = [(_ROLES.get(str(step.get("source")), "assistant"), "\n\n".join(parts))]
    observation = step.get("observation")
    results = observation.get("results") if isinstance(observation, dict) else None
    for result in results if isinstance(results, list) else []:
        if isinstance(result, dict):
            found.append(("tool", text_of(result.get("content"))))
    return found


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= MAX_CONTENT:
        return text
    half = MAX_CONTENT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"
