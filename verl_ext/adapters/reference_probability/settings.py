"""``algorithm.verl_ext.group_reward.reference_probability``, read once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.group_rewards import SECTION, section
from verl_ext.adapters.sections import one_of, read
from verl_ext.reward_fns.reference_reward import Format, ReferenceReward, Repetition
from verl_ext.reward_fns.response_format import Tags

KEY = f"{SECTION}.reference_probability"
MODES = ("rollout", "trainer")
DEBIAS = ("initial", "refresh", "none")
DEFAULT = "default"  # the weights of data sources that are not named


@dataclass(frozen=True)
class Weights:
    """How much each reward counts for the rows of a data source.

    Attributes:
        probability: of the reference-probability reward, format and repetition included.
        verifier: of verl's own reward (``reward.*``), which is not asked at 0.

    Raises:
        ValueError: one is negative, or both are 0.
    """

    probability: float = 1.0
    verifier: float = 0.0

    def __post_init__(self) -> None:
        if min(self.probability, self.verifier) < 0 or not self.probability + self.verifier > 0:
            raise ValueError(
                "probability and verifier must be >= 0 and not both 0, got "
                f"probability={self.probability}, verifier={self.verifier}"
            )


@dataclass(frozen=True)
class ReferenceProbability:
    """The probability of the reference answer after a response's own reasoning, as its reward.

    Attributes:
        mode: who is asked for the probability: ``"rollout"``, the policy's own servers, as soon as
            a response is there; ``"trainer"``, the training engine, once the batch is.
        reduction: of the token probabilities.
        debias: what is subtracted: ``"initial"``, the reference's probability without reasoning
            under the policy before training; ``"refresh"``, the same under the policy of the last
            multiple of ``refresh_every`` steps; ``"none"``.
        refresh_every: steps, for ``debias=refresh``.
        tags: keyword arguments of ``reward_fns.response_format.Tags``.
        format: keyword arguments of ``reward_fns.reference_reward.Format``.
        repetition: of ``reward_fns.reference_reward.Repetition``; None for no penalty.
        weights: data source, or ``default``, -> keyword arguments of :class:`Weights`.
        timeout_s: seconds a server may take for one response; not counted under
            ``colocate_async``, where a request waits while the trainer has the devices.

    Raises:
        ValueError: a value is none of those.
    """

    mode: str = "rollout"
    reduction: str = "mean"
    debias: str = "initial"
    refresh_every: int | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    format: Mapping[str, Any] = field(default_factory=dict)
    repetition: Mapping[str, Any] | None = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        one_of("mode", self.mode, MODES)
        one_of("debias", self.debias, DEBIAS)
        if (self.refresh_every is not None) != (self.debias == "refresh"):
            raise ValueError(
                f"refresh_every={self.refresh_every} and debias={self.debias}: a number of steps "
                f"goes with debias=refresh, and with it alone. Add: {KEY}.refresh_every="
                + ("20" if self.debias == "refresh" else "null")
            )
        if self.refresh_every is not None and self.refresh_every < 1:
            raise ValueError(f"refresh_every must be >= 1, got {self.refresh_every}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0, got {self.timeout_s}")

    @property
    def debiases(self) -> bool:
        """Whether anything is subtracted."""
        return self.debias != "none"

    def rule(self) -> ReferenceReward:
        """The reward of a response.

        Raises:
            SettingsError: names the key.
        """
        tags, form = (
            read(f"{KEY}.tags", Tags, self.tags),
            read(f"{KEY}.format", Format, self.format),
        )
        assert tags is not None
        assert form is not None
        repetition = read(f"{KEY}.repetition", Repetition, self.repetition)
        try:
            return ReferenceReward(self.reduction, self.debiases, tags, form, repetition)
        except ValueError as error:
            raise SettingsError(f"{KEY}: {error}") from error

    def weights_of(self, source: str) -> Weights:
        """Those of a data source.

        Raises:
            SettingsError: names the key.
        """
        name = source if source in self.weights else DEFAULT
        given = read(f"{KEY}.weights.{name}", Weights, self.weights.get(name) or {})
        assert given is not None
        return given


def reference_probability(config: DictConfig) -> ReferenceProbability | None:
    """The section of a configuration; None without one.

    Args:
        config: verl's whole configuration.

    Raises:
        SettingsError: names the key, and the nearest valid one.
    """
    return read(KEY, ReferenceProbability, section(config, "reference_probability"))


def room(config: DictConfig, prompt_tokens: int) -> int:
    """Tokens that a spliced response may have after a prompt: as many as a response may.

    A server also needs one for the token that it samples on being asked.

    Args:
        config: verl's whole configuration.
        prompt_tokens: of the prompt.
    """
    rollout = config.actor_rollout_ref.rollout
    whole = rollout.get("max_model_len") or rollout.prompt_length + rollout.response_length
    return max(1, min(int(rollout.response_length), int(whole) - 1 - prompt_tokens))
