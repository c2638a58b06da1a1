"""Capstan's agent: the package that travels in the ZIP beside agent.py."""

__version__ = "0.1.0"
