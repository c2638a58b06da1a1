"""The tools that the model can call, and the registry that answers every call."""

from src.tools.base import ToolResult
from src.tools.registry import HarborToolRegistry

__all__ = ["HarborToolRegistry", "ToolResult"]
