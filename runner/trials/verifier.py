"""Verify a trial: copy the tests in, run test.sh, read the reward (docs/contract.md, Verifier)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from runner.environments import Environment, GuardedResult, GuardedRun
from runner.results import Reason
from runner.tasks import Task
from runner.trials.rewards import RewardError, Rewards, read_rewards

LOGS = "/logs/verifier"
TESTS = "/tests"
TEST_SCRIPT = "/tests/test.sh"
OUTPUT = "test-stdout.txt"

PASS_REWARD = 1.0

REWARD_BEFORE_TIMEOUT = "reward_kept_after_verifier_timeout"
TAMPERED = "tampered"
NO_NETWORK = "verifier_without_network"

# Messages of uv, pip, apt, curl, wget, git and npm where a name cannot be resolved or reached.
_NO_NETWORK = re.compile(
    rb"could not resolve host|temporary failure (resolving|in name resolution)|name or service not known"
    rb"|failed to lookup address|dns error|network is unreachable|nodename nor servname|bad address '"
    rb"|unable to resolve host address|EAI_AGAIN|no route to host",
    re.IGNORECASE,
)
_SCANNED_BYTES = 4 << 20

NETWORK_NOTE = (
    "the tests need a network, and this task has none: install what test.sh downloads in the image, "
    "or set [environment] allow_internet = true"
)


@dataclass(frozen=True)
class Verdict:
    """The result of verification.

    Attributes:
        rewards: The rewards. None: there is none.
        reason: Why there is no reward. This and the next two are also set if the verifier timed out
            after the reward had been written.
        error_type: Harbor's name for the error.
        guard: How the reward was protected (`runner.environments.GuardedResult`).
        marks: Codes for the trial's record.
        notes: Lines that explain the marks.
    """

    rewards: Rewards | None = None
    reason: Reason | None = None
    error_type: str | None = None
    error: str | None = None
    guard: str | None = None
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the reward is 1 or more."""
        return self.rewards is not None and self.rewards.score >= PASS_REWARD


@dataclass(frozen=True)
class Verifier:
    """The verifier of one trial, after the agent's run.

    Attributes:
        folder: The trial's verifier folder. /logs/verifier is copied there.
        timeout_sec: The time limit of test.sh.
        log: Writes a line to the trial's log.
    """

    task: Task
    environment: Environment
    folder: Path
    _: KW_ONLY
    timeout_sec: float
    env: Mapping[str, str]
    log: Callable[[str], None]

    async def run(self) -> Verdict:
        """Copy the tests in, run them, and read the reward. Errors of the tests are in the verdict.

        Raises:
            EnvironmentLost: The environment cannot be reached.
        """
        result = await self._run_tests()
        if result.findings:
            # The agent's processes may have written this reward, so it does not count.
            return Verdict(
                reason=Reason.RESULT_INVALID,
                error_type="TamperedVerificationError",
                error="the tests or the reward were changed from outside while the tests ran",
                guard=result.guard,
                marks=(TAMPERED,),
                notes=result.findings,
            )
        return self._verdict(result)

    async def _run_tests(self) -> GuardedResult:
        self.folder.mkdir(parents=True, exist_ok=True)
        verifier = self.task.config.verifier
        guarded = GuardedRun(
            command=f"({TEST_SCRIPT}) > {LOGS}/{OUTPUT} 2>&1",
            upload={TESTS: self.task.tests_dir},
            collect={LOGS: self.folder},
            executable=(TEST_SCRIPT,),
            env=self.env,
            user=verifier.user,
            timeout_sec=self.timeout_sec,
        )
        result = await self.environment.exec_guarded(guarded)
        if result.timed_out:
            self.log(f"test.sh was still running after {self.timeout_sec:g} s and was stopped")
        else:
            self.log(f"test.sh ended with exit code {result.return_code} (guard: {result.guard})")
        return result

    def _verdict(self, result: GuardedResult) -> Verdict:
        marks: list[str] = []
        notes: list[str] = []
        rewards: Rewards | None = None
        failure: RewardError | None = None
        try:
            rewards = read_rewards(self.folder)
        except RewardError as error:
            failure = error
        failed = rewards is None or rewards.score < PASS_REWARD
        isolated = self.task.config.environment.network == "none"
        if failed and isolated and _lacked_network(self.folder / OUTPUT):
            marks.append(NO_NETWORK)
            notes.append(NETWORK_NOTE)
        reason = failure.reason if failure else None
        error_type = failure.error_type if failure else None
        message = str(failure) if failure else None
        if result.timed_out:
            reason, error_type = Reason.VERIFIER_TIMEOUT, "VerifierTimeoutError"
            message = f"the tests were still running at their time limit ({self.timeout_sec:g} s)"
            if rewards is not None:
                marks.append(REWARD_BEFORE_TIMEOUT)
                notes.append(f"{message}; the reward written before that counts")
        elif failure is not None and result.return_code in (126, 127):
            message = (
                f"{message} (test.sh could not run: exit code {result.return_code}; see verifier/{OUTPUT})"
            )
        return Verdict(
            rewards=rewards,
            reason=reason,
            error_type=error_type,
            error=message,
            guard=result.guard,
            marks=tuple(marks),
            notes=tuple(notes),
        )


def _lacked_network(test_output: Path) -> bool:
    """Return whether the output of the tests says that a host could not be reached."""
    if test_output.is_symlink() or not test_output.is_file():
        return False
    with test_output.open("rb") as stream:
        return _NO_NETWORK.search(stream.read(_SCANNED_BYTES)) is not None
