"""What ``algorithm.verl_ext`` says of a teacher, read once and refused where it makes no sense."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig

from verl_ext.adapters.sections import one_of, read
from verl_ext.catalog import MIXERS
from verl_ext.losses.divergence_math import DivergenceKind

# Another model's weights, or the policy's own, which reads more than the policy did.
OTHER_SOURCES = ("ref", "server")
OWN_SOURCES = ("self", "ema", "trust_region")
SOURCES = OTHER_SOURCES + OWN_SOURCES
ON_FAILURE = ("stop", "drop")
LOG_PROBS = ("old", "rollout")
# Names for what alpha means; the numbers between 0 and 1 are Jensen-Shannon divergences.
ALPHAS = {"forward_kl": 0.0, "jsd": 0.5, "reverse_kl": 1.0}
NORMALISATIONS = ("global", "micro_batch_mean")
SAMPLED = ("k1", "k2", "k3", "kl", "abs", "mse", "low_var_kl")


@dataclass(frozen=True)
class Teacher:
    """``algorithm.verl_ext.teacher``: who the teacher is.

    Attributes:
        source: ``"ref"``, verl's reference worker with the teacher's weights; ``"server"``, verl's
            pool of teacher servers (``distillation.*``); or the policy itself with hints in its
            prompt: ``"self"``, its live weights, ``"ema"``, their moving average, or
            ``"trust_region"``, logits between the reference policy's and its own.
        path: of the teacher's model, for ``ref``.
        log_prob_floor: nats, what stands in for a log-prob that is NaN or infinite; with ``ref``
            where ``not_finite`` is ``report``, since a run stops otherwise.
        on_teacher_failure: of a server, ``"stop"`` or ``"drop"`` its rows.
        timeout_s: seconds a server may take for one response.
        rate: for ``ema`` how far the average moves a step, for ``trust_region`` how far the teacher
            is from the reference policy to the live one.
        max_prompt_length: tokens of a policy's own teacher's prompt, hints and all.
        hints: keyword arguments of ``self_teaching.choice.Rules``.
        texts: keyword arguments of ``self_teaching.texts.Texts``.

    Raises:
        ValueError: a value is none of those.
    """

    source: str
    path: str | None = None
    log_prob_floor: float = -20.0
    on_teacher_failure: str = "stop"
    timeout_s: float = 600.0
    rate: float = 0.05
    max_prompt_length: int | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("source", self.source, SOURCES)
        one_of("on_teacher_failure", self.on_teacher_failure, ON_FAILURE)
        if not -1e4 <= self.log_prob_floor < 0:
            raise ValueError(f"log_prob_floor must be a negative number, got {self.log_prob_floor}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0, got {self.timeout_s}")
        if not 0 < self.rate < 1:
            raise ValueError(
                f"rate must be above 0 and below 1, got {self.rate}: at 0 the teacher would be the "
                "reference policy, at 1 the policy itself (source=self)"
            )

    @property
    def is_own(self) -> bool:
        """Whether the policy teaches itself."""
        return self.source in OWN_SOURCES

    @property
    def needs_reference(self) -> bool:
        """Whether verl's reference worker has a part in it."""
        return self.source in ("ref", "trust_region")


@dataclass(frozen=True)
class Mix:
    """``algorithm.verl_ext.advantage`` of a mixing estimator.

    A = ``task_weight`` * A[``task_estimator``] + the teacher's term.

    Attributes:
        task_estimator: any name verl's registry knows, or None for the teacher's term alone.
        task_weight: of its advantages.
        task_arguments: its ``algorithm.verl_ext.advantage``.
        log_probs: the student's, ``"old"`` of the training engine or ``"rollout"`` of the sampler.
        term: keyword arguments of the teacher's term.

    Raises:
        ValueError: a value is none of those.
    """

    task_estimator: str | None = None
    task_weight: float = 1.0
    task_arguments: Mapping[str, Any] = field(default_factory=dict)
    log_probs: str = "old"
    term: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("log_probs", self.log_probs, LOG_PROBS)
        if self.task_estimator is not None:
            return
        if self.task_arguments:
            raise ValueError("task_arguments has no effect without a task_estimator")
        if self.task_weight != 1:
            raise ValueError(
                f"task_weight={self.task_weight} has no effect without a task_estimator: make it "
                "1.0, or name one, such as task_estimator=grpo"
            )

    @property
    def task_speaks(self) -> bool:
        """Whether the rewards have a part in the advantage."""
        return self.task_estimator is not None and self.task_weight != 0


@dataclass(frozen=True)
class Divergence:
    """``algorithm.verl_ext.divergence``: a term of the loss against the teacher's distribution.

    Attributes:
        coef: its weight beside the policy loss.
        alpha: ``"forward_kl"``, ``"reverse_kl"``, ``"jsd"``, or a number between 0 and 1.
        top_k: tokens of the support, None for all of them.
        support: whose: ``"student"``, ``"teacher"``, or ``"full"``.
        tail: whether what lies outside counts as one more token, else both are renormalised.
        importance_clip: weighs each token by how much likelier it has become since it was sampled,
            at most this much (``losses.importance``); None leaves it out.
        normalisation: ``"global"``, as the policy loss; or ``"micro_batch_mean"``, each micro-batch
            by its own tokens, which then depends on how the batch is cut.

    Raises:
        ValueError: a value is none of those.
    """

    coef: float = 1.0
    alpha: float | str = "reverse_kl"
    top_k: int | None = 100
    support: str = "student"
    tail: bool = True
    importance_clip: float | None = None
    normalisation: str = "global"

    def __post_init__(self) -> None:
        if not self.coef > 0:
            raise ValueError(f"coef must be above 0, got {self.coef}")
        one_of("normalisation", self.normalisation, NORMALISATIONS)
        if self.importance_clip is not None and not 1 <= self.importance_clip < math.inf:
            raise ValueError(
                f"importance_clip must be at least 1, got {self.importance_clip}: below, tokens on "
                "policy would be clipped"
            )
        if self.alpha in SAMPLED:
            raise ValueError(
                f"alpha={self.alpha} is an estimate from the sampled token. Back-propagated "
                "directly it is wrong: the expected gradient of k1 is zero, whatever the teacher "
                "says. The sampled form is the advantage: algorithm.adv_estimator=verl_ext.opd"
            )
        if isinstance(self.alpha, str):
            one_of("alpha", self.alpha, tuple(ALPHAS))
        if self.support == "full" and not self.tail:
            raise ValueError("tail=false has no effect with support=full: nothing is outside it")
        DivergenceKind(**self.arguments)  # refuses the rest

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the kernel."""
        alpha = ALPHAS[self.alpha] if isinstance(self.alpha, str) else float(self.alpha)
        of_support = {"top_k": self.top_k, "support": self.support, "tail": self.tail}
        return {"alpha": alpha, **of_support}


@dataclass(frozen=True)
class Plan:
    """What a run wants of its teacher.

    Attributes:
        teacher: None if there is none.
        mix: None unless the estimator mixes.
        divergence: None unless the loss has that term.
    """

    teacher: Teacher | None
    mix: Mix | None
    divergence: Divergence | None

    @property
    def needs_log_probs(self) -> bool:
        """Whether the advantage asks for the teacher's log-probs of the sampled tokens."""
        return self.mix is not None and self.mix.term.get("coef", 1.0) != 0

    @property
    def has_advantages(self) -> bool:
        """Whether there are any but 0: not where a divergence alone teaches."""
        return self.mix is None or self.needs_log_probs or self.mix.task_speaks


def plan(config: DictConfig) -> Plan:
    """Reads the sections.

    Raises:
        SettingsError: names the key, and the nearest valid one.
    """
    settings = config.algorithm.get("verl_ext") or {}
    key = "algorithm.verl_ext"
    teacher = read(f"{key}.teacher", Teacher, settings.get("teacher"))
    divergence = read(f"{key}.divergence", Divergence, settings.get("divergence"))
    mixer = MIXERS.get(str(config.algorithm.adv_estimator))
    mix = None
    if mixer:
        mix = read(f"{key}.advantage", _mix_of(mixer.function), settings.get("advantage") or {})
    return Plan(teacher, mix, divergence)


def rewarded_estimator(config: DictConfig) -> str:
    """The estimator that sees the rewards: of a mixing one its task's, its own name if none."""
    name = str(config.algorithm.adv_estimator)
    if name not in MIXERS:
        return name
    advantage = (config.algorithm.get("verl_ext") or {}).get("advantage") or {}
    return str(advantage.get("task_estimator") or name)


def _mix_of(function: Callable[..., Any]) -> Callable[..., Mix]:
    """A maker of :class:`Mix` that also takes the keyword arguments of the teacher's term."""
    parameters = inspect.signature(function).parameters.values()
    own = [item for item in parameters if item.kind is item.KEYWORD_ONLY]
    ours = [item for item in inspect.signature(Mix).parameters.values() if item.name != "term"]

    def make(**arguments: Any) -> Mix:
        term = {item.name: arguments.pop(item.name, item.default) for item in own}
        ones = torch.zeros(1, 2)
        function(ones, ones, torch.ones(1, 2), **term)  # its errors are the check of its values
        return Mix(**arguments, term=term)

    only = inspect.Parameter.KEYWORD_ONLY
    make.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [item.replace(kind=only) for item in (*ours, *own)]
    )
    return make
