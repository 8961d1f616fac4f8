"""The configuration: one schema, filled from flags, environment and TOML, in that order of precedence."""

from pensieved.settings.load import load_settings
from pensieved.settings.schema import Settings

__all__ = ["Settings", "load_settings"]
