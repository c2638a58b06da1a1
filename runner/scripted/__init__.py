"""The scripted model: DeepSeek's API over HTTP, with answers from scripts instead of an LLM."""

from runner.scripted.format import (
    Answer,
    CallSpec,
    Fault,
    Rule,
    ScriptError,
    ScriptFile,
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
    "Rule",
    "ScriptError",
    "ScriptFile",
    "ScriptUpstream",
    "load_script",
    "load_scripts",
]
