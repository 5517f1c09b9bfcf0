"""Tournaments: how near to the judge's own time they run, and how well they rank.

    python benchmarks/tournament.py [--groups 64] [--players 16] [--latency 1.0]
    python benchmarks/tournament.py --picture OUT.png

Part 1, time. All groups at once, with an in-process judge who takes ``latency`` seconds for each
comparison and any number of them together. The ideal is rounds x latency; beside it the CPU time
that the scheduler takes for a comparison, from the same with a judge who answers at once.

Part 2, ranking quality (``--picture`` alone). A judge with noise, as a share of the spread of
quality among the players; Spearman's correlation of the rewards with the true order, for each
topology against its comparisons and against the noise.

Acceptance: single elimination takes at most 1.1 of the ideal, for 64 groups of 16.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from bars import Bar, verdict

from verl_ext.metrics.ranks import spearman
from verl_ext.reward_fns.tournament import TOPOLOGIES, Compare, TournamentResult
from verl_ext.text_table import aligned

MOST = 1.1
SIZES, NOISES = (4, 8, 16), (0.0, 0.25, 0.5, 1.0, 2.0)


class WaitingJudge:
    """Gives seeded scores after ``latency`` seconds; counts the longest chain of rounds."""

    def __init__(self, group: int, players: int, latency: float) -> None:
        draw = random.Random(group)
        self.quality = [draw.gauss(0, 1) for _ in range(players)]
        self.latency, self.rounds, self.waiting = latency, 0, 0

    async def __call__(self, i: int, j: int) -> tuple[float, float]:
        """Scores of the two."""
        self.rounds += self.waiting == 0  # the first of a round: those before have answered
        self.waiting += 1
        await asyncio.sleep(self.latency)
        self.waiting -= 1
        return self.quality[i], self.quality[j]


async def timed(
    name: str, groups: int, players: int, latency: float
) -> tuple[float, int, list[TournamentResult]]:
    """Wall seconds of all groups together, the most rounds of one, and the results."""
    judges = [WaitingJudge(group, players, latency) for group in range(groups)]
    topology = TOPOLOGIES[name]
    start = time.perf_counter()
    results = await asyncio.gather(
        *(topology(players, judge, seed=group) for group, judge in enumerate(judges))
    )
    return time.perf_counter() - start, max(judge.rounds for judge in judges), results


def bars(groups: int, players: int, latency: float) -> list[Bar]:
    """Prints the table of all topologies; single elimination's wall time over the ideal."""
    rows = [["topology", "comparisons", "rounds", "wall s", "of ideal", "CPU us a comparison"]]
    ratios = {}
    for name in TOPOLOGIES:
        wall, rounds, results = asyncio.run(timed(name, groups, players, latency))
        made = sum(result.comparisons for result in results)
        start = time.process_time()
        asyncio.run(timed(name, groups, players, 0.0))
        micro = (time.process_time() - start) / made * 1e6
        ratios[name] = wall / (rounds * latency)
        numbers = [f"{made / groups:.1f}", str(rounds), f"{wall:.2f}"]
        rows.append([name, *numbers, f"{ratios[name]:.3f}", f"{micro:.0f}"])
    print(f"{groups} groups of {players}, a judge of {latency:g} s")
    print("\n".join(aligned(rows, 1)))
    what = "single elimination, wall time over rounds x latency"
    return [Bar(what, ratios["single_elimination"], MOST, "benchmarks/tournament.py")]


# Over HTTP, against the simulated judge's server: comparisons per second and CPU time of each.


def noisy(quality: Sequence[float], noise: float, draw: random.Random) -> Compare:
    async def compare(i: int, j: int) -> tuple[float, float]:
        return quality[i] + noise * draw.gauss(0, 1), quality[j] + noise * draw.gauss(0, 1)

    return compare


async def ranking_quality(
    name: str, players: int, noise: float, groups: int
) -> tuple[float, float]:
    """Mean comparisons and mean Spearman correlation with the true order."""
    made, correlations = [], []
    for group in range(groups):
        draw = random.Random(group)
        quality = [draw.gauss(0, 1) for _ in range(players)]
        result = await TOPOLOGIES[name](players, noisy(quality, noise, draw), seed=group)
        if result.rewards is None:
            raise RuntimeError("a judge that never fails made a group void")
        made.append(result.comparisons)
        correlations.append(spearman(torch.tensor(result.rewards), torch.tensor(quality)))
    return statistics.fmean(made), statistics.fmean(correlations)


def draw_picture(path: Path, groups: int) -> None:
    """Writes a PNG: for each size Spearman against noise; last, against comparisons at noise .5."""
    import matplotlib

    from verl_ext.plotting.panels import COLOURS, DPI, GREY, STYLE, end_labels, grid, headline

    table = {
        (name, players, noise): asyncio.run(ranking_quality(name, players, noise, groups))
        for name in TOPOLOGIES
        for players in SIZES
        for noise in NOISES
    }
    colours = dict(zip(TOPOLOGIES, COLOURS, strict=False))
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(len(SIZES) + 1, width=5.2, columns=2)
        for axes, players in zip(panels, SIZES, strict=False):
            marks = []
            for name, colour in colours.items():
                values = [table[name, players, noise][1] for noise in NOISES]
                axes.plot(NOISES, values, marker="o", color=colour)
                made = table[name, players, 0.5][0]
                marks.append((values[-1], f"{name}, {made:.0f}", colour))
            axes.set(title=f"{players} players", ylim=(0, 1.02), xlim=(0, NOISES[-1]))
            axes.set(xlabel="noise of a score / spread of quality", ylabel="Spearman")
            end_labels(axes, marks)
        axes = panels[-1]
        for name, colour in colours.items():
            points = [table[name, players, 0.5] for players in SIZES]
            axes.plot(*zip(*points, strict=True), color=colour, marker="o")
            for players, (made, value) in zip(SIZES, points, strict=True):
                axes.annotate(
                    str(players),
                    (made, value),
                    (3, 4),
                    textcoords="offset points",
                    color=GREY,
                    fontsize=8,
                )
        axes.set(title="noise 0.5, by cost", xscale="log", xlabel="comparisons of a group")
        axes.set_ylabel("Spearman")
        headline(
            figure, "How well a tournament ranks", f"{groups} groups, comparisons in the labels"
        )
        figure.savefig(path, format="png", dpi=DPI)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--groups", type=int, default=64, help="default: %(default)s")
    add("--players", type=int, default=16, help="default: %(default)s")
    add("--latency", type=float, default=1.0, help="seconds; default: %(default)s")
    add("--picture", type=Path, metavar="OUT.png", help="draw the ranking quality instead")
    add("--draws", type=int, default=200, help="groups a point of it; default: %(default)s")
    args = parser.parse_args()
    if args.picture:
        draw_picture(args.picture, args.draws)
        return 0
    return verdict(bars(args.groups, args.players, args.latency))


if __name__ == "__main__":
    raise SystemExit(main())
