"""Settings of a run and profiles of models."""

from src.config.profiles import ChatTemplate, ModelProfile, PeakHours, Price, profile_for
from src.config.settings import Settings, SettingsError, load_settings

__all__ = [
    "ChatTemplate",
    "ModelProfile",
    "PeakHours",
    "Price",
    "Settings",
    "SettingsError",
    "load_settings",
    "profile_for",
]
