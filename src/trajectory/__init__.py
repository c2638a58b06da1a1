"""The records of a run: an ATIF trajectory for programs, agent.log for people."""

from src.trajectory.atif import AgentInfo
from src.trajectory.log import close_log, make_log
from src.trajectory.recorder import TrajectoryRecorder

__all__ = ["AgentInfo", "TrajectoryRecorder", "close_log", "make_log"]
