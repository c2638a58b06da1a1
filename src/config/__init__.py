"""Settings of a run and profiles of models."""

from src.config.profiles import ChatTemplate, ModelProfile, PeakHours, profile_for
from src.config.settings import Settings, SettingsError, load_settings

__all__ = [
    "ChatTemplate",
    "ModelProfile",
    "PeakHours",
    "Settings",
    "SettingsError",
    "load_settings",
    "profile_for",
]
