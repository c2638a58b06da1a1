"""Stall watch, budget watch, deadline and the final line."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.config import Settings
from src.llm.messages import ToolCall
from src.loop.limits import (
    ERRORS_IN_A_ROW,
    MAX_REMINDERS,
    WAITS_IN_A_ROW,
    BudgetWatch,
    Deadline,
    StallWatch,
    known_deadline,
)
from src.loop.loop import EndReason, RunEnd
from src.loop.run import summary_line
from src.tools import ToolResult


def call(arguments: str = "{}") -> ToolCall:
    return ToolCall("c", "shell_command", arguments)


def settings(**changes: object) -> Settings:
    return Settings(api_key="k", **changes)  # type: ignore[arg-type]


class Clock:
    """A clock with a settable time."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_identical_calls_with_identical_results_are_noticed_whatever_their_duration() -> None:
    watch = StallWatch(repeat_limit=3)
    verdicts = [watch.check([call()], [ToolResult(f"exit code 1 after {i / 10} s")]) for i in range(3)]
    assert verdicts[:2] == [None, None]
    assert verdicts[2] is not None and not verdicts[2].end


def test_reminders_that_do_not_help_end_the_run() -> None:
    watch = StallWatch(repeat_limit=2)
    verdicts = [watch.check([call()], [ToolResult("same")]) for _ in range(2 * (MAX_REMINDERS + 1))]
    given_ = [verdict for verdict in verdicts if verdict is not None]
    assert [verdict.end for verdict in given_] == [False] * MAX_REMINDERS + [True]


def test_progress_takes_reminders_back() -> None:
    watch = StallWatch(repeat_limit=2)
    for i in range(10):
        for _ in range(2):
            verdict = watch.check([call(f'{{"i":{i}}}')], [ToolResult(f"result {i}")])
        assert verdict is not None and not verdict.end


def test_an_error_loop_is_noticed() -> None:
    watch = StallWatch(repeat_limit=100)
    verdicts = [
        watch.check([call(f'{{"i":{i}}}')], [ToolResult("no", is_error=True)]) for i in range(ERRORS_IN_A_ROW)
    ]
    assert verdicts[-1] is not None and "failed" in verdicts[-1].text
    assert verdicts[:-1] == [None] * (ERRORS_IN_A_ROW - 1)


def test_pure_waiting_is_noticed() -> None:
    watch = StallWatch(repeat_limit=3)
    verdicts = [
        watch.check([call()], [ToolResult("still running", waited=True)]) for _ in range(WAITS_IN_A_ROW)
    ]
    assert verdicts[-1] is not None and "waited" in verdicts[-1].text
    assert verdicts[:-1] == [None] * (WAITS_IN_A_ROW - 1)


def test_each_budget_warning_is_given_once() -> None:
    clock = Clock()
    watch = BudgetWatch(settings(cost_limit_usd=1.0, max_steps=100), Deadline(1_000, clock))
    seen: list[int] = []
    for tick in range(101):
        clock.now = tick * 10.0
        seen += [tick for _ in watch.warnings(steps=0, cost_usd=0.0)]
    assert seen == [50, 75, 90, 94]
    assert [len(watch.warnings(0, cost)) for cost in (0.4, 0.5, 0.6, 0.95, 0.96)] == [0, 1, 0, 1, 0]
    assert len(watch.warnings(steps=80, cost_usd=0.96)) == 1


def test_no_limit_no_warning() -> None:
    watch = BudgetWatch(settings(), Deadline(None))
    assert watch.warnings(steps=1, cost_usd=1_000.0) == []


def test_deadline_arithmetic() -> None:
    clock = Clock()
    deadline = Deadline(60.0, clock)
    clock.now = 45.0
    assert (deadline.at, deadline.left_sec, deadline.used) == (60.0, 15.0, 0.75)
    assert Deadline(None, clock).left_sec == math.inf


def test_deadline_is_found_in_each_source(tmp_path: Path) -> None:
    logs = tmp_path / "agent"
    logs.mkdir()
    assert known_deadline({}, None, logs) is None
    config = {"agent": {"override_timeout_sec": 100}, "timeout_multiplier": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert known_deadline({}, None, logs) == 200.0
    assert known_deadline({}, {"timeout_sec": "50"}, logs) == 50.0
    assert known_deadline({}, SimpleNamespace(deadline_sec=40), logs) == 40.0
    assert known_deadline({"deadline_sec": 30}, SimpleNamespace(deadline_sec=40), logs) == 30.0


@pytest.mark.parametrize("broken", ["", "[]", '{"agent": 3}', '{"agent": {"override_timeout_sec": "x"}}'])
def test_a_broken_trial_config_tells_no_deadline(tmp_path: Path, broken: str) -> None:
    (tmp_path / "config.json").write_text(broken)
    assert known_deadline({}, None, tmp_path / "agent") is None


@given(st.text())
def test_the_last_line_is_clean(detail: str) -> None:
    line = summary_line(RunEnd(EndReason.MODEL_ERROR, detail), 3, None)
    assert line.encode("utf-8").decode() == line
    assert "\n" not in line and line.isprintable()
    assert line.startswith("model error")
