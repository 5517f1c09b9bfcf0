"""The simulated judge behind HTTP, as any OpenAI-compatible endpoint."""

import asyncio
import hmac
import json
import os
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

from aiohttp import web

from verl_ext.reward_fns.judge_prompt import read_back
from verl_ext.simulated_judge.answers import Judged, completion, judged, scores
from verl_ext.simulated_judge.faults import Fault
from verl_ext.simulated_judge.quality import load
from verl_ext.simulated_judge.settings import ServerSettings

ATTEMPT = "x-stainless-retry-count"  # OpenAI's clients say in it how often they asked before
STATUS = {
    Fault.HTTP_500: (500, "out of order"),
    Fault.OUTAGE: (503, "out of order for a while"),
    Fault.REJECTED: (400, "the prompt is too long"),
    Fault.RATE_LIMIT: (429, "too many requests"),
}
TRICKLE_S = 0.02  # between two bytes
LARGEST = 256 * 2**20  # bytes of a request
REMEMBERED = 1000  # calls


class SimulatedJudge:
    """The application and its counters.

    Args:
        settings: of the judge.

    Raises:
        ValueError: there is no such quality function, or no key in the environment.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._quality = load(settings.quality)
        self._key = _key(settings.key_env)
        self._calls = self._in_flight = self._in_flight_max = 0
        self._faults: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._recent: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self.app = web.Application(client_max_size=LARGEST)
        self.app.router.add_post("/v1/chat/completions", self._complete)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_get("/health", self._health)
        self.app.router.add_get("/stats", self._stats)

    def stats(self) -> dict[str, Any]:
        """What it did: numbers of calls, CPU seconds, and the last calls one by one."""
        return {
            "calls": self._calls,
            "answered": self._calls - sum(self._faults.values()),
            "faults": dict(self._faults),
            "in_flight": self._in_flight,
            "in_flight_max": self._in_flight_max,
            "cpu_s": time.process_time(),
            "recent": list(self._recent),
        }

    def summary(self) -> str:
        """The same in a line."""
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self._faults.items()))
        return f"{self._calls} calls, at most {self._in_flight_max} at a time; " + (
            f"faults: {faults}" if faults else "no faults"
        )

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self._in_flight += 1
        self._in_flight_max = max(self._in_flight_max, self._in_flight)
        try:
            return await self._answer(request)
        finally:
            self._in_flight -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if self._key and not hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
            # Worse than a real server, which hides most of it: what prints errors would show keys.
            return _error(401, f"incorrect API key provided: {given}")
        body = await request.json()
        if body.get("model") != self._settings.model:
            return _error(404, f"the model {body.get('model')!r} does not exist")
        try:
            asked = judged(read_back(body["messages"]))
        except (ValueError, KeyError) as error:
            return _error(400, str(error))
        fault = self._count(asked, request.headers)
        await asyncio.sleep(self._settings.latency_s)
        if fault is Fault.SLOW:
            await asyncio.sleep(self._settings.faults.slow_s)
        if fault in SPECIAL:
            return await SPECIAL[fault](request)
        if fault in STATUS:
            return _error(*STATUS[fault], headers=self._headers(fault))
        annotator = self._settings.annotator.asked(int(body.get("seed") or 0))
        fields = scores(asked, self._quality, annotator)
        return web.json_response(completion(body, fields, fault, annotator.max_score))

    def _count(self, asked: Judged, headers: Mapping[str, str]) -> Fault | None:
        number, key = self._calls, asked.key
        attempt = int(headers.get(ATTEMPT, self._asked[key]))
        self._calls += 1
        self._asked[key] += 1
        fault = self._settings.faults.of_call(number, key, attempt, asked.first)
        kind = fault.value if fault else None
        if kind:
            self._faults[kind] += 1
        at = time.monotonic()
        self._recent.append({"number": number, "attempt": attempt, "fault": kind, "at": at})
        return fault

    def _headers(self, fault: Fault) -> dict[str, str]:
        if fault is not Fault.RATE_LIMIT:
            return {}
        kind, _, seconds = self._settings.faults.retry_after.rpartition(":")
        if not kind:
            return {"Retry-After": seconds}
        # Rounded up: a date has no fractions of a second.
        later = datetime.now(timezone.utc) + timedelta(seconds=float(seconds) + 1)
        return {"Retry-After": format_datetime(later.replace(microsecond=0), usegmt=True)}

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self._settings.model, "object": "model", "created": 0, "owned_by": "us"}
        return web.json_response({"object": "list", "data": [model]})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.stats())


@asynccontextmanager
async def listening(judge: SimulatedJudge, settings: ServerSettings) -> AsyncIterator[str]:
    """Serves while the context lasts.

    Args:
        judge: the application.
        settings: of the judge.

    Yields:
        The base URL for a client.
    """
    # Cancelled where the client has gone: a call that hangs is then no longer in flight.
    runner = web.AppRunner(
        judge.app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1"
    finally:
        await runner.cleanup()


async def _hang(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("not reached")


async def _trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(TRICKLE_S)


async def _drop(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _not_json(request: web.Request) -> web.StreamResponse:
    return web.Response(text='{"choices": [', content_type="application/json")


SPECIAL: dict[Fault | None, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
    Fault.HANG: _hang,
    Fault.TRICKLE: _trickle,
    Fault.DROP: _drop,
    Fault.NOT_JSON: _not_json,
}


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = {"error": {"message": message, "type": "simulated", "code": status}}
    return web.Response(
        status=status, text=json.dumps(body), content_type="application/json", headers=headers
    )


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise ValueError(f"no key in the environment variable {variable}")
    return os.environ[variable]
