"""``verl-ext judge``: a simulated judge behind an OpenAI-compatible endpoint, until Ctrl-C."""

import argparse
import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl_ext.simulated_judge.settings import ServerSettings


def add_parser(subparsers: Any) -> None:
    """Adds ``judge`` to the command.

    Args:
        subparsers: what argparse's ``add_subparsers`` returned.
    """
    parser = subparsers.add_parser("judge", help="serve a simulated judge")
    serve = parser.add_argument_group("endpoint").add_argument
    serve("--host", default="127.0.0.1", help="default: %(default)s")
    serve("--port", type=int, default=0, help="default: a free one")
    serve("--model", default="simulated", help="the name it answers to (default: %(default)s)")
    serve("--key-env", metavar="VARIABLE", help="environment variable with the key it asks for")
    score = parser.add_argument_group("scores").add_argument
    score("--quality", default="length", metavar="MODULE:FUNCTION",
          help="hidden quality(question, answer) in [0, 1] (default: %(default)s)")  # fmt: skip
    points = {"type": float, "default": 0.0, "metavar": "POINTS"}
    score("--noise", **points, help="standard deviation for each response in each call")
    score("--calibration", **points, help="standard deviation of a call's common offset")
    score("--position-bias", **points, help="on top for the response shown first")
    score("--resolution", **points, help="distance of possible scores (default: 0, any)")
    score("--flip", type=float, default=0.0, metavar="P", help="probability of a flipped pair")
    score("--max-score", type=float, default=10.0, metavar="POINTS", help="default: %(default)s")
    score("--seed", type=int, default=0, help="of scores and faults (default: %(default)s)")
    fail = parser.add_argument_group("faults").add_argument
    fail("--latency", type=float, default=0.0, metavar="SECONDS", help="of every call")
    fail("--fault", action="append", default=[], type=_share, metavar="KIND=SHARE",
         help="share of the calls that fail so; may be repeated")  # fmt: skip
    fail("--marker", metavar="TEXT", help="only calls fail that show a response with this first")
    fail("--outage", action="append", default=[], type=_span, metavar="BEGIN:END",
         help="these calls fail, counted from 0; may be repeated")  # fmt: skip
    fail("--retry-after", default="1", metavar="SECONDS", help="of rate_limit; date:SECONDS too")
    fail("--slow", type=float, default=1.0, metavar="SECONDS", help="of the fault slow")


def run(args: argparse.Namespace) -> int:
    """Serves until it is interrupted.

    Args:
        args: as parsed with :func:`add_parser`.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: the arguments describe no judge.
    """
    # As `python -m` has it: the quality's module may lie in the current directory.
    sys.path.insert(0, "")
    asyncio.run(_serve(settings(args)))
    return 0


def settings(args: argparse.Namespace) -> "ServerSettings":
    """The judge that the arguments describe.

    Args:
        args: as parsed with :func:`add_parser`.

    Raises:
        ValueError: they describe none.
    """
    from verl_ext.simulated_judge.annotator import Annotator
    from verl_ext.simulated_judge.faults import Faults
    from verl_ext.simulated_judge.settings import ServerSettings

    return ServerSettings(
        quality=args.quality,
        annotator=Annotator(
            noise=args.noise,
            calibration=args.calibration,
            flip=args.flip,
            position_bias=args.position_bias,
            resolution=args.resolution,
            max_score=args.max_score,
            seed=args.seed,
        ),
        faults=Faults(
            shares=dict(args.fault),
            marker=args.marker,
            outages=tuple(args.outage),
            retry_after=args.retry_after,
            slow_s=args.slow,
            seed=args.seed,
        ),
        latency_s=args.latency,
        host=args.host,
        port=args.port,
        model=args.model,
        key_env=args.key_env,
    )


async def _serve(wanted: "ServerSettings") -> None:
    from verl_ext.simulated_judge.server import SimulatedJudge, listening

    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    judge = SimulatedJudge(wanted)
    async with listening(judge, wanted) as url:
        print(url, flush=True)
        await interrupted.wait()
        print(judge.summary(), flush=True)


def _share(text: str) -> tuple[str, float]:
    kind, _, share = text.partition("=")
    return kind, float(share)


def _span(text: str) -> tuple[int, int]:
    begin, _, end = text.partition(":")
    return int(begin), int(end)
