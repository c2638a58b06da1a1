"""The scripted model: DeepSeek's API over HTTP, with answers from scripts instead of an LLM."""

from runner.scripted.format import (
    Answer,
    CallSpec,
    Fault,
    ScriptError,
    ScriptFile,
    ScriptRule,
    load_script,
    load_scripts,
)
from runner.scripted.player import FilePlayer, PythonScript
from runner.scripted.reply import Reply, ReplyCall
from runner.scripted.upstream import ScriptUpstream

__all__ = [
    "Answer",
    "CallSpec",
    "Fault",
    "FilePlayer",
    "PythonScript",
    "Reply",
    "ReplyCall",
    "ScriptError",
    "ScriptFile",
    "ScriptRule",
    "ScriptUpstream",
    "load_script",
    "load_scripts",
]
