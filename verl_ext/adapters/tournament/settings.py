"""``algorithm.verl_ext.group_reward.tournament``, read once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any

from omegaconf import DictConfig

from verl_ext.adapters.group_rewards import SECTION, section
from verl_ext.adapters.judge.settings import JudgeError, JudgeSettings
from verl_ext.adapters.sections import one_of, read
from verl_ext.reward_fns.tournament import TOPOLOGIES
from verl_ext.simulated_judge.annotator import Annotator
from verl_ext.simulated_judge.faults import Faults
from verl_ext.simulated_judge.settings import ServerSettings

KEY = f"{SECTION}.tournament"
HABITS = tuple(each.name for each in fields(Annotator))
POINTWISE = "pointwise"
FAILURES = ("void_pair", "drop_group", "raise")
# As the judge's address: the policy's own servers; a simulated judge, started with the run.
POLICY, SIMULATED = "policy", "simulated"


@dataclass(frozen=True)
class Anchor:
    """The response that the others are first compared with: drawn, unless it is greedy.

    Attributes:
        greedy: it is a prompt's first, sampled at temperature 0.
        train: train on it all the same.

    Raises:
        ValueError: ``train`` without ``greedy`` has no effect.
    """

    greedy: bool = False
    train: bool = False

    def __post_init__(self) -> None:
        if self.train and not self.greedy:
            raise ValueError("train=true has no effect without greedy=true: every response teaches")


@dataclass(frozen=True)
class Tournament:
    """A prompt's responses play a tournament before a judge, and the place is the reward.

    Attributes:
        topology: one of ``reward_fns.tournament.TOPOLOGIES``; or ``"pointwise"``, each response
            judged alone, for comparison.
        calls: of ``pointwise``: times that each response is judged, with a seed each.
        max_void: share of a group's comparisons that may be void, see ``on_failure``.
        on_failure: what becomes of a group with more: ``"void_pair"``, equal rewards, so it teaches
            nothing; ``"drop_group"``, another prompt takes its place; ``"raise"``, the run stops.
        max_dropped: of ``drop_group``: batches' worth of groups dropped in one step before the run
            stops.
        anchor: keyword arguments of :class:`Anchor`.
        judge: of ``adapters.judge.settings.JudgeSettings``; as ``base_url`` also ``"policy"``, the
            policy's own servers, or ``"simulated"``.
        simulated: of ``simulated_judge.settings.ServerSettings`` and of its annotator; for
            ``base_url=simulated``.
        urls: of the judge's servers, where the run has to find them; not to be set by hand.

    Raises:
        ValueError: a value is none of those, or has no effect beside the others.
    """

    topology: str = "single_elimination"
    calls: int | None = None
    max_void: float = 0.1
    on_failure: str = "void_pair"
    max_dropped: float | None = None
    anchor: Mapping[str, Any] = field(default_factory=dict)
    judge: Mapping[str, Any] = field(default_factory=dict)
    simulated: Mapping[str, Any] | None = None
    urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("topology", self.topology, (*TOPOLOGIES, POINTWISE))
        one_of("on_failure", self.on_failure, FAILURES)
        if not 0 <= self.max_void < 1:
            raise ValueError(f"max_void must be in [0, 1), got {self.max_void}")
        if (self.calls is not None) != self.pointwise:
            raise ValueError(
                f"calls={self.calls} and topology={self.topology}: a number of calls goes with "
                f"topology=pointwise, and with it alone. Add: {KEY}.calls="
                + ("2" if self.pointwise else "null")
            )
        if self.calls is not None and self.calls < 1:
            raise ValueError(f"calls must be >= 1, got {self.calls}")
        if (self.max_dropped is not None) != (self.on_failure == "drop_group"):
            raise ValueError(
                f"max_dropped={self.max_dropped} and on_failure={self.on_failure}: a number of "
                "batches goes with on_failure=drop_group, and with it alone. Add: "
                f"{KEY}.max_dropped=" + ("10" if self.on_failure == "drop_group" else "null")
            )
        if bool(self.described) != (self.address == SIMULATED):
            raise ValueError(
                f"simulated={self.described or None} and judge.base_url={self.address}: a judge is "
                "described where base_url=simulated, and there alone. Add: "
                + (f"{KEY}.simulated=null" if self.described else f"{KEY}.judge.base_url=URL")
            )
        if self.max_dropped is not None and not self.max_dropped > 0:
            raise ValueError(f"max_dropped must be above 0, got {self.max_dropped}")

    @property
    def pointwise(self) -> bool:
        """Whether responses are judged alone."""
        return self.topology == POINTWISE

    @property
    def described(self) -> dict[str, Any]:
        """What is said of the simulated judge."""
        return {name: value for name, value in (self.simulated or {}).items() if value is not None}

    @property
    def address(self) -> str | None:
        """The judge's ``base_url`` as it stands in the configuration."""
        return self.judge.get("base_url")

    @cached_property
    def anchored(self) -> Anchor:
        """What the prompt's first response is.

        Raises:
            SettingsError: names the key.
        """
        made = read(f"{KEY}.anchor", Anchor, self.anchor)
        assert made is not None
        return made

    @property
    def found_by_run(self) -> bool:
        """Whether the judge's servers are the run's own, and come with it."""
        return self.address in (POLICY, SIMULATED)

    @cached_property
    def judges(self) -> list[JudgeSettings]:
        """How the judge is asked, at each of its servers.

        Raises:
            JudgeError: they are the run's own, and it has found none.
            SettingsError: names the key.
        """
        if self.found_by_run and not self.urls:
            raise JudgeError(f"{KEY}.judge.base_url={self.address}: the run has no such server")
        return [self.judge_at(url) for url in (self.urls if self.found_by_run else [self.address])]

    def judge_at(self, url: str | None) -> JudgeSettings:
        """How the judge is asked at one server.

        Args:
            url: its ``base_url``.

        Raises:
            SettingsError: names the key.
        """
        made = read(f"{KEY}.judge", JudgeSettings, {**self.judge, "base_url": url})
        assert made is not None
        return made

    def simulated_by(self) -> ServerSettings:
        """What the simulated judge is.

        Raises:
            SettingsError: names the key.
        """
        given = self.described
        habits = {name: given.pop(name) for name in HABITS if name in given}
        faults = read(f"{KEY}.simulated.faults", Faults, given.pop("faults", {}))
        annotator = read(f"{KEY}.simulated", Annotator, habits)
        assert annotator is not None
        assert faults is not None
        made = read(
            f"{KEY}.simulated", partial(ServerSettings, annotator=annotator, faults=faults), given
        )
        assert made is not None
        return made


def tournament(config: DictConfig) -> Tournament | None:
    """The section of a configuration; None without one.

    Args:
        config: verl's whole configuration.

    Raises:
        SettingsError: names the key, and the nearest valid one.
    """
    return read(KEY, Tournament, section(config, "tournament"))
