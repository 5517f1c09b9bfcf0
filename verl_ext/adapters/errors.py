"""Errors a user sees."""

from hydra.errors import CompactHydraException


class SettingsError(CompactHydraException, ValueError):
    """A configuration that cannot do what it says; Hydra prints it without a traceback."""
