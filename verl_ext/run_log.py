"""Reads the metrics file that verl's logger ``file`` writes, and sums a run up.

One line a step: ``{"step": 3, "data": {"actor/entropy": 0.4, ...}}``. Standard library alone.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path

# Where verl keeps a quantity; the first key that was logged counts.
REWARD = ("critic/rewards/mean", "critic/score/mean")
ENTROPY = ("actor/entropy",)
RESPONSE_LENGTH = ("response_length/mean",)
TIMINGS = ("timing_s/step", "timing_s/testing")  # the second is no part of the first

_PASS_AT_K = re.compile(r"^verl_ext/val/(?P<source>.+)/pass@(?P<k>\d+)$")
Series = list[tuple[int, float]]


class RunLogError(ValueError):
    """No metrics file, or one that verl did not write."""


@dataclass(frozen=True)
class RunLog:
    """What a run logged.

    Attributes:
        path: the metrics file.
        steps: step -> metric -> value; NaN where verl logged NaN.
        cut_short: the last line was still being written.
    """

    path: Path
    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    cut_short: bool = False

    @property
    def name(self) -> str:
        """The file's own name, or its folder's if the file has the general one."""
        return self.path.parent.name if self.path.stem == "metrics" else self.path.stem

    def series(self, keys: Iterable[str]) -> Series:
        """(step, value) of the first of ``keys`` that was logged at all; else empty."""
        for key in keys:
            found = [(step, data[key]) for step, data in self.steps.items() if key in data]
            if found:
                return found
        return []

    def pass_at_k(self) -> dict[str, dict[int, dict[int, float]]]:
        """Validations as data source -> step -> k -> pass@k."""
        validations: dict[str, dict[int, dict[int, float]]] = {}
        for step, data in self.steps.items():
            for key, value in data.items():
                if match := _PASS_AT_K.match(key):
                    by_step = validations.setdefault(match["source"], {})
                    by_step.setdefault(step, {})[int(match["k"])] = value
        return validations


def find(run: Path) -> list[Path]:
    """The metrics files of a run's directory, newest first.

    Args:
        run: a directory, searched with its sub-directories, or a metrics file itself.

    Raises:
        RunLogError: there is none.
    """
    if not run.exists():
        raise RunLogError(f"{run} does not exist")
    candidates = [run] if run.is_file() else sorted(run.rglob("*.jsonl"))
    found = [path for path in candidates if _is_metrics_file(path)]
    if not found:
        raise RunLogError(
            f"no metrics file of verl in {run}: the run needs verl's logger 'file', "
            "for example trainer.logger=[console,file], and at least one finished step"
        )
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def read(path: Path) -> RunLog:
    """Reads a metrics file; of a step logged twice the later values count.

    Args:
        path: the file; a line without its end is left out, since a run may still be writing.

    Raises:
        RunLogError: a line is not what verl's logger ``file`` writes.
    """
    lines = path.read_bytes().split(b"\n")
    unfinished = lines.pop()
    steps: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if record is None:
            raise RunLogError(
                f"{path}, line {number}: not a line of verl's logger 'file', which writes "
                f'{{"step": ..., "data": {{...}}}}: {line[:60]!r}'
            )
        step, data = record
        steps.setdefault(step, {}).update(data)
    return RunLog(path, dict(sorted(steps.items())), cut_short=bool(unfinished))


def summary(log: RunLog, seconds: float | None = None) -> str:
    """A short table: how long the run took, and its figures before and after.

    Args:
        log: of the run.
        seconds: wall time; None sums the steps and validations verl timed, without the start-up.

    Returns:
        Lines of at most 72 characters, without a line end.
    """
    timed = sum(value for key in TIMINGS for _, value in log.series([key]))
    duration = f"{_duration(timed)} of training" if seconds is None else _duration(seconds)
    trained = sum(step > 0 for step in log.steps)
    lines = [f"{log.name}: {trained} step{'s' * (trained != 1)} in {duration}"]
    rows = [*_validation_rows(log), *_training_rows(log)]
    if rows:
        lines += [f"{'':<46}{'before':>12}{'after':>12}"]
        lines += [f"{label:<46.46}{before:>12}{after:>12}" for label, before, after in rows]
    return "\n".join(lines)


def few_ks(n: int) -> list[int]:
    """A few k for a table: 1, 4, 16, ... and n itself."""
    return [*(4**power for power in range(n.bit_length()) if 4**power < n), n]


def _validation_rows(log: RunLog) -> list[Sequence[str]]:
    rows = []
    for source, by_step in log.pass_at_k().items():
        first, last = by_step[min(by_step)], by_step[max(by_step)]
        for k in few_ks(max(last)):
            label = f"{source}  " + ("accuracy (pass@1)" if k == 1 else f"pass@{k}")
            before = f"{first[k]:.3f}" if min(by_step) == 0 and k in first else "-"
            rows.append((label, before, f"{last[k]:.3f}" if k in last else "-"))
    return rows


def _training_rows(log: RunLog) -> list[Sequence[str]]:
    rows = []
    for label, keys in (
        ("reward, first and last step", REWARD),
        ("entropy in nats, first and last step", ENTROPY),
        ("response length in tokens, first and last step", RESPONSE_LENGTH),
    ):
        if series := log.series(keys):
            rows.append((label, f"{series[0][1]:.3f}", f"{series[-1][1]:.3f}"))
    return rows


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _is_metrics_file(path: Path) -> bool:
    """Whether verl's logger wrote it; verl writes rollouts as .jsonl too."""
    with path.open("rb") as file:
        first = file.readline()
    return first.endswith(b"\n") and _record(first) is not None


def _record(line: bytes) -> tuple[int, dict[str, float]] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or set(record) != {"step", "data"}:
        return None
    if not isinstance(record["step"], int) or not isinstance(record["data"], dict):
        return None
    # verl writes NaN as null; text is no metric.
    return record["step"], {
        key: nan if value is None else float(value)
        for key, value in record["data"].items()
        if value is None or isinstance(value, int | float)
    }
