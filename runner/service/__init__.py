"""The evaluation service: Terminal-Bench-server's HTTP API, and jobs.

docs/contract.md, The evaluation service, has what it must keep to.
"""

from runner.service.settings import ServiceSettings, load_settings

__all__ = ["ServiceSettings", "load_settings"]
