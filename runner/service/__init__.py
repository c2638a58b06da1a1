"""The evaluation service: Terminal-Bench-server's HTTP API, and jobs.

docs/contract.md, The evaluation service, has what it must keep to.
"""

from runner.service.app import create_app
from runner.service.settings import ServiceSettings, load_settings

__all__ = ["ServiceSettings", "create_app", "load_settings"]
