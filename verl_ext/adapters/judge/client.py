"""The judge: asks an endpoint, again where that helps, and says what came of it.

A judge that failed is a verdict without scores. What would fail every call the same way, such as a
wrong key or a model that is not served, is a JudgeError instead.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tenacity

from verl_ext.adapters.judge.breaker import Admission, Breaker
from verl_ext.adapters.judge.cache import AnswerCache, key
from verl_ext.adapters.judge.exchange import Exchange, Reply
from verl_ext.adapters.judge.settings import JudgeSettings
from verl_ext.adapters.judge.verdict import FINAL, Cost, Failure, PairVerdict, SingleVerdict
from verl_ext.reward_fns.judge_answer import (
    AnswerError,
    Fault,
    pair_format,
    parse_pair,
    parse_single,
    single_format,
)
from verl_ext.reward_fns.judge_prompt import (
    JudgedResponse,
    Messages,
    pair_messages,
    single_messages,
)

Question = Sequence[Mapping[str, Any]]  # chat messages


@dataclass(frozen=True)
class _Outcome:
    """What a call came to: the scores, or the last reply."""

    read: Any
    reply: Reply
    cost: Cost


class Judge:
    """A judge, of one process and one event loop at a time.

    Args:
        settings: of the judge.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._breaker = Breaker(settings.limits)
        self._cache = AnswerCache(settings.cache) if settings.cache else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exchange: Exchange
        self._turns: asyncio.Semaphore

    def __repr__(self) -> str:
        return f"Judge({self._settings})"

    async def pair(
        self, question: Question, first: JudgedResponse, second: JudgedResponse
    ) -> PairVerdict:
        """Scores of two responses, in one order.

        Args:
            question: chat messages that both answer.
            first: the response shown first.
            second: the response shown second.

        Raises:
            JudgeError: no call can succeed.
            ValueError: the question is not text.
        """
        rule = self._settings.rule
        messages = pair_messages(rule, question, self.seen(first), self.seen(second))
        done = await self._call(messages, pair_format(rule.max_score), parse_pair)
        return PairVerdict(done.read, done.reply.failure, done.reply.detail, done.cost)

    async def single(
        self, question: Question, response: JudgedResponse, seed: int | None = None
    ) -> SingleVerdict:
        """The score of one response, seen alone.

        Args:
            question: chat messages that it answers.
            response: the response.
            seed: of the judge's sampling, to ask several times; None for none.

        Raises:
            JudgeError: no call can succeed.
            ValueError: the question is not text.
        """
        rule = self._settings.rule
        messages = single_messages(rule, question, self.seen(response))
        done = await self._call(messages, single_format(rule.max_score), parse_single, seed)
        return SingleVerdict(done.read, done.reply.failure, done.reply.detail, done.cost)

    async def close(self) -> None:
        """Closes the connections; the next call opens new ones."""
        if self._loop is asyncio.get_running_loop():
            await self._exchange.close()
        self._loop = None

    def seen(self, response: JudgedResponse) -> JudgedResponse:
        """What the judge is shown of a response.

        Args:
            response: all of it.
        """
        return JudgedResponse(
            response.reasoning if self._settings.show_reasoning else "",
            response.tool_calls if self._settings.show_tool_calls else (),
            response.answer,
        )

    def _body(self, messages: Messages, form: dict[str, Any], seed: int | None) -> dict[str, Any]:
        settings = self._settings
        return {
            "model": settings.model,
            "messages": messages,
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            **({} if seed is None else {"seed": seed}),
            **({"response_format": form} if settings.structured == "json_schema" else {}),
            **({"extra_body": dict(settings.extra_body)} if settings.extra_body else {}),
        }

    async def _call(
        self,
        messages: Messages,
        form: dict[str, Any],
        parse: Callable[[str, float], Any],
        seed: int | None = None,
    ) -> _Outcome:
        """From the cache, or from the endpoint when it is this call's turn."""
        body = self._body(messages, form, seed)
        name = key(self._settings.base_url, body) if self._cache else ""
        kept = self._cache.find(name) if self._cache else None
        if kept is not None:
            done = _Outcome(parse(kept, self._settings.max_score), Reply(kept), Cost(cached=True))
        else:
            self._enter_loop()
            async with self._turns:
                done = await self._admitted(body, parse)
            if self._cache and done.reply.failure is None:
                self._cache.keep(name, done.reply.text)
        return done

    def _enter_loop(self) -> None:
        """Connections and semaphore belong to a loop: of another, they are made anew."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._exchange = Exchange(self._settings)
            self._turns = asyncio.Semaphore(self._settings.concurrency)
            self._loop = loop

    async def _admitted(self, body: dict[str, Any], parse: Callable[[str, float], Any]) -> _Outcome:
        admission = self._breaker.admission()
        if admission is Admission.REFUSED:
            reply = Reply(failure=Failure.CIRCUIT_OPEN, detail="after calls without an answer")
            return _Outcome(None, reply, Cost())
        told = False
        try:
            done = await self._attempts(body, parse)
            told = True
        finally:
            if not told:
                self._breaker.abandoned(admission)
        if done.reply.failure is not None and done.reply.failure.silent:
            self._breaker.silent(admission)
        else:
            self._breaker.answered()
        return done

    async def _attempts(self, body: dict[str, Any], parse: Callable[[str, float], Any]) -> _Outcome:
        began = time.monotonic()
        replies: list[Reply] = []

        async def attempt() -> tuple[Any, Reply]:
            replies.append(await self._exchange.ask(body, len(replies)))
            return _read(replies[-1], parse, self._settings.max_score)

        result: tuple[Any, Reply] = await self._retrying()(attempt)
        cost = Cost(
            attempts=len(replies),
            latency_s=time.monotonic() - began,
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.completion_tokens for reply in replies),
        )
        return _Outcome(*result, cost)

    def _retrying(self) -> tenacity.AsyncRetrying:
        settings = self._settings
        longest = settings.max_backoff_s
        backoff = tenacity.wait_exponential(settings.backoff_s, longest) + tenacity.wait_random(
            0, settings.backoff_s
        )

        def again(result: tuple[Any, Reply]) -> bool:
            reply = result[1]
            late = (reply.retry_after or 0.0) > longest
            return reply.failure is not None and reply.failure not in FINAL and not late

        def wait(state: tenacity.RetryCallState) -> float:
            assert state.outcome is not None
            told = state.outcome.result()[1].retry_after or 0.0
            return max(min(backoff(state), longest), told)

        return tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(settings.attempts),
            wait=wait,
            retry=tenacity.retry_if_result(again),
            retry_error_callback=lambda state: state.outcome.result(),  # type: ignore[union-attr]
        )


def _read(reply: Reply, parse: Callable[[str, float], Any], max_score: float) -> tuple[Any, Reply]:
    """The scores of a reply, or none and the reply with what is wrong with it."""
    if reply.failure is not None:
        return None, reply
    try:
        return parse(reply.text, max_score), reply
    except AnswerError as error:
        out = error.fault is Fault.OUT_OF_RANGE
        failure = Failure.OUT_OF_RANGE if out else Failure.MALFORMED
        return None, replace(reply, failure=failure, detail=str(error))
