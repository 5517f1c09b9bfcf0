"""Asked of a policy's server in its own process, which therefore imports little else of ours."""

from typing import Any


def engine_trouble(server: Any) -> str | None:
    """What is wrong with the engine of a server of verl's; None if nothing is, or it has none.

    Args:
        server: the object behind the handle, in its own process.
    """
    engine = getattr(server, "engine", None)
    return "its engine is dead" if getattr(engine, "errored", False) else None
