"""What a simulated judge is, in values that can be handed to another process."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from verl_ext.simulated_judge.annotator import Annotator
from verl_ext.simulated_judge.faults import Faults


@dataclass(frozen=True)
class ServerSettings:
    """A simulated judge.

    Attributes:
        quality: name of the hidden quality's function; see :mod:`verl_ext.simulated_judge.quality`.
        annotator: how scores come from it.
        faults: which calls fail.
        latency_s: how long every call takes.
        host: to listen at.
        port: to listen at; 0 for a free one.
        model: the name it answers to.
        key_env: environment variable with the key that calls must carry; None for no key. The key
            itself is in no settings.

    Raises:
        ValueError: a time or a port that is none.
    """

    quality: str = "length"
    annotator: Annotator = field(default_factory=Annotator)
    faults: Faults = field(default_factory=Faults)
    latency_s: float = 0.0
    host: str = "127.0.0.1"
    port: int = 0
    model: str = "simulated"
    key_env: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.latency_s < float("inf"):
            raise ValueError(f"latency_s must be finite and >= 0, got {self.latency_s}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be in [0, 65535], got {self.port}")

    def dumps(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "ServerSettings":
        """The inverse of :meth:`dumps`.

        Args:
            text: as it returned.
        """
        plain: dict[str, Any] = json.loads(text)
        faults = plain.pop("faults")
        faults["outages"] = tuple(map(tuple, faults["outages"]))
        annotator = Annotator(**plain.pop("annotator"))
        return cls(annotator=annotator, faults=Faults(**faults), **plain)
