"""Token counters, and the manager that keeps the history within the window."""

from src.context.counters import load_counter
from src.context.manager import CompactionEvent, ContextManager, ContextTooSmall, FittedHistory

__all__ = ["CompactionEvent", "ContextManager", "ContextTooSmall", "FittedHistory", "load_counter"]
