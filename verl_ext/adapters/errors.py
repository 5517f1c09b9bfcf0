"""Errors a user sees."""

from collections.abc import Iterable

from hydra.errors import CompactHydraException

from verl_ext.suggest import nearest


class SettingsError(CompactHydraException, ValueError):
    """A configuration that cannot do what it says; Hydra prints it without a traceback."""


def refuse_unknown(key: str, given: Iterable[str], valid: Iterable[str]) -> None:
    """Refuses a name that is not valid, and says which is nearest."""
    valid = list(valid)
    for name in given:
        if not valid:
            raise SettingsError(f"{key}: unknown '{name}'; it takes no settings: {key}={{}}")
        if name not in valid:
            raise SettingsError(
                f"{key}: unknown '{name}', did you mean '{nearest(str(name), valid)}'? "
                f"There are: {', '.join(map(str, valid))}"
            )
