"""One attempt: a request to the endpoint, and what came back."""

import asyncio
import json
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, cast

import openai
from openai.types.chat import ChatCompletion

from verl_ext.adapters.judge.settings import JudgeError, JudgeSettings
from verl_ext.adapters.judge.verdict import Failure

ATTEMPT = "x-stainless-retry-count"  # the client's own header, which it sets to 0
NO_KEY = "none"  # the client sends one in any case
FATAL = (401, 403, 404)  # a key, a right or a model that is not there: so is every other call's
DETAIL = 200  # characters of a server's words


@dataclass(frozen=True)
class Reply:
    """What one attempt brought.

    Attributes:
        text: of the answer; "" where there is a failure.
        failure: None where the endpoint answered as it should.
        detail: of the failure.
        retry_after: seconds that the endpoint wants to be left alone.
        prompt_tokens: as the endpoint counts.
        completion_tokens: the same.
        fatal: whether every call would fail so.
    """

    text: str = ""
    failure: Failure | None = None
    detail: str = ""
    retry_after: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fatal: bool = False


class Exchange:
    """A client of one event loop.

    Args:
        settings: of the judge.

    Raises:
        JudgeError: the environment has no key.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        key = settings.key()
        self._secret, self._settings = key, settings
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=key or NO_KEY,
            max_retries=0,
            timeout=settings.timeout_s,
        )

    async def ask(self, body: dict[str, Any], attempt: int) -> Reply:
        """Sends a request.

        Args:
            body: of the request.
            attempt: how often it was sent before.

        Raises:
            JudgeError: every call would fail the same way.
        """
        reply = await self._ask(body, attempt)
        if reply.fatal:  # raised here, so that it carries no request and no headers with it
            raise JudgeError(
                f"the judge {self._settings.model!r} at {self._settings.base_url} refuses to be "
                f"asked: {reply.detail}"
            )
        return reply

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def _ask(self, body: dict[str, Any], attempt: int) -> Reply:
        create = cast(Any, self._client.chat.completions.create)  # the body is checked by tests
        sent = create(**body, extra_headers={ATTEMPT: str(attempt)})
        try:
            # Around the whole of it: the client's own timeout starts anew with each byte.
            completion = await asyncio.wait_for(sent, self._settings.timeout_s)
        except (asyncio.TimeoutError, openai.APITimeoutError):
            return Reply(failure=Failure.TIMEOUT, detail=f"{self._settings.timeout_s:g} s")
        except openai.APIStatusError as error:
            return self._of_status(error)
        except openai.APIConnectionError as error:
            return Reply(failure=Failure.CONNECTION, detail=self._words(error.__cause__ or error))
        except (openai.APIResponseValidationError, json.JSONDecodeError, UnicodeDecodeError):
            return Reply(failure=Failure.MALFORMED, detail="the body is not a chat completion")
        return _of_completion(completion)

    def _of_status(self, error: openai.APIStatusError) -> Reply:
        status = error.status_code
        failure = Failure.HTTP_ERROR if status >= 500 else Failure.REJECTED
        if status == 429:
            failure = Failure.RATE_LIMITED
        return Reply(
            failure=Failure.TIMEOUT if status == 408 else failure,
            detail=f"HTTP {status}: {self._words(error)}",
            retry_after=retry_after(error.response.headers.get("retry-after"), time.time()),
            fatal=status in FATAL,
        )

    def _words(self, error: BaseException) -> str:
        """What an error says, in a line and without the key, which servers repeat."""
        said = " ".join(f"{type(error).__name__}: {error}".split())
        if self._secret:
            said = said.replace(self._secret, "***")
        return said if len(said) <= DETAIL else said[: DETAIL - 3] + "..."


def retry_after(header: str | None, now: float) -> float | None:
    """The seconds of a ``Retry-After`` header; None where it has none or cannot be read.

    Args:
        header: seconds, or an HTTP date.
        now: seconds since the epoch.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now
        except ValueError:
            return None
    return max(seconds, 0.0) if seconds < float("inf") else None


def _of_completion(completion: Any) -> Reply:
    """What a body says, whatever it holds: the client checks no types."""
    choices: Any = completion.choices if isinstance(completion, ChatCompletion) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        return Reply(failure=Failure.MALFORMED, detail="the body is not a chat completion")
    text, refusal = getattr(message, "content", None), getattr(message, "refusal", None)
    reason = getattr(choice, "finish_reason", None)
    reply = Reply(
        prompt_tokens=_count(completion.usage, "prompt_tokens"),
        completion_tokens=_count(completion.usage, "completion_tokens"),
    )
    if refusal or reason == "content_filter":
        detail = str(refusal or reason)[:DETAIL]
        return replace(reply, failure=Failure.REFUSED, detail=detail)
    if reason == "length":
        return replace(reply, failure=Failure.TRUNCATED, detail="cut off at max_tokens")
    if not isinstance(text, str):
        return replace(reply, failure=Failure.MALFORMED, detail="the answer has no text")
    return replace(reply, text=text)


def _count(usage: Any, name: str) -> int:
    count = getattr(usage, name, 0)
    return count if isinstance(count, int) else 0
