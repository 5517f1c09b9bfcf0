"""What a judge is asked, where, and with how much patience."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from verl_ext.reward_fns.judge_rubric import Criterion, Rubric
from verl_ext.suggest import nearest

STRUCTURED = ("json_schema", "none")
# Of a request, set by settings of their own or by the client.
OWN = ("model", "messages", "temperature", "max_tokens", "response_format", "stream", "n")
RUBRIC = (
    "Judge how well a response answers the question: whether it is correct, complete, to the point "
    "and well reasoned."
)


class JudgeError(RuntimeError):
    """A judge that cannot be asked: every call would fail the same way, so the run stops."""


@dataclass(frozen=True)
class BreakerSettings:
    """When a judge that does not answer is left alone.

    Attributes:
        failures: calls in a row without an answer after which no more are made.
        cooldown_s: seconds until one call is tried again.

    Raises:
        ValueError: a value is not in its range.
    """

    failures: int = 10
    cooldown_s: float = 30.0

    def __post_init__(self) -> None:
        _whole("breaker.failures", self.failures)
        _number("breaker.cooldown_s", self.cooldown_s)


@dataclass(frozen=True)
class JudgeSettings:
    """A judge.

    Attributes:
        base_url: of an OpenAI-compatible endpoint, up to and with ``/v1``.
        model: the name it is served under.
        api_key_env: environment variable with the key; None where the endpoint needs none. The key
            is read when the client is made and is part of no settings.
        rubric: what a good response is, in sentences.
        criteria: name -> weight, or {weight, description}; none leaves it to the rubric.
        max_score: of one response; the least is 0.
        temperature: of the judge's sampling.
        max_tokens: of its answer, its reasoning included where it reasons.
        timeout_s: seconds for one attempt, from connecting to the last byte of the answer.
        attempts: times a call is made before it has failed. An answer that cannot be read is asked
            for again like one that did not come, out of the same attempts, and at temperature 0
            too: servers that batch do not repeat to the bit.
        backoff_s: seconds before the second attempt, at random from 1 to 2 of these; then twice
            that, and so on.
        max_backoff_s: most seconds between two attempts. A ``Retry-After`` is waited for where it
            is longer than the backoff; where it is longer than this, the call has failed at once.
        concurrency: calls at a time, of this process; one that waits to try again is one.
        breaker: keyword arguments of :class:`BreakerSettings`.
        cache: a folder on a local disk with answers that are not asked for again, shared by all
            processes that name it; None for none.
        structured: whether the endpoint is sent the answer's JSON schema, ``"json_schema"``, or is
            left to the words of the prompt, ``"none"``.
        extra_body: more fields of each request, such as ``chat_template_kwargs`` of vLLM.
        show_reasoning: whether the judge sees a response's reasoning.
        show_tool_calls: whether it sees its tool calls.

    Raises:
        ValueError: names the value that cannot be.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    rubric: str = RUBRIC
    criteria: Mapping[str, Any] = field(default_factory=dict)
    max_score: float = 10.0
    temperature: float = 0.0
    max_tokens: int = 1024
    timeout_s: float = 60.0
    attempts: int = 4
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    concurrency: int = 64
    breaker: Mapping[str, Any] = field(default_factory=dict)
    cache: str | None = None
    structured: str = "json_schema"
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    show_reasoning: bool = True
    show_tool_calls: bool = True

    def __post_init__(self) -> None:
        _url(self.base_url)
        _each(self, _text, "model", "rubric")
        _each(self, _text_or_none, "api_key_env", "cache")
        _each(self, _number, "temperature", "backoff_s", "max_backoff_s")
        _each(self, _above_zero, "max_score", "timeout_s")
        _each(self, _whole, "max_tokens", "attempts", "concurrency")
        _each(self, _switch, "show_reasoning", "show_tool_calls")
        if self.structured not in STRUCTURED:
            raise ValueError(
                f"structured must be one of {', '.join(STRUCTURED)}, got {self.structured!r}; "
                f"did you mean {nearest(str(self.structured), STRUCTURED)!r}?"
            )
        _not_own(self.extra_body)
        _ = self.rule, self.limits  # refuse theirs

    @cached_property
    def rule(self) -> Rubric:
        """How the judge is to score.

        Raises:
            ValueError: names the criterion that cannot be.
        """
        criteria = tuple(_criterion(name, given) for name, given in self.criteria.items())
        return Rubric(self.rubric, criteria, self.max_score)

    @cached_property
    def limits(self) -> BreakerSettings:
        """When the judge is left alone.

        Raises:
            ValueError: names the value that cannot be.
        """
        _known("breaker", self.breaker, ("failures", "cooldown_s"))
        return BreakerSettings(**self.breaker)

    def key(self) -> str | None:
        """The API key; None where the endpoint needs none.

        Raises:
            JudgeError: the environment has none.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise JudgeError(
                f"the judge's API key is read from the environment variable {self.api_key_env}, "
                "which is not set. For an endpoint that needs none: api_key_env=null"
            )
        return key


def _criterion(name: str, given: Any) -> Criterion:
    if isinstance(given, Mapping):
        _known(f"criteria.{name}", given, ("weight", "description"))
        weight, description = given.get("weight", 1.0), given.get("description", "")
    else:
        weight, description = given, ""
    _above_zero(f"criteria.{name}", weight)
    return Criterion(str(name), float(weight), str(description))


def _known(name: str, given: Mapping[str, Any], valid: Sequence[str]) -> None:
    for key in given:
        if key not in valid:
            raise ValueError(
                f"{name} has no '{key}': did you mean '{nearest(str(key), valid)}'? "
                f"There are: {', '.join(valid)}"
            )


def _not_own(extra_body: Mapping[str, Any]) -> None:
    for key in extra_body:
        if key in OWN:
            raise ValueError(f"extra_body must not have '{key}', which the judge sets itself")


def _url(url: str) -> None:
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url must be http://HOST/v1 or the like, got {url!r}")
    if parts.username or parts.password:
        raise ValueError("base_url must hold no user or password: name the key in api_key_env")


def _each(settings: object, refuse: Callable[[str, Any], None], *names: str) -> None:
    for name in names:
        refuse(name, getattr(settings, name))


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be text, got {value!r}")


def _text_or_none(name: str, value: Any) -> None:
    if value is not None:
        _text(name, value)


def _number(name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and >= 0, got {value!r}")


def _above_zero(name: str, value: Any) -> None:
    _number(name, value)
    if value == 0:
        raise ValueError(f"{name} must be > 0, got {value!r}")


def _whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")


def _switch(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
