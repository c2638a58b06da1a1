"""The runner: tasks, trials, jobs, their results, and the service and pages that show them."""

__version__ = "0.1.0"
