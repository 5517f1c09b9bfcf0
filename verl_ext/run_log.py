"""What a run logged: reads the JSON lines of verl's ``file`` logger and sums them up in a table.

One line a step, ``{"step": 3, "data": {"critic/rewards/mean": 0.25, ...}}``. Pure text work: the
file of a run on another machine reads as well as one's own.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from verl_ext.text_table import aligned, duration, number

METRICS_FILE = "metrics.jsonl"  # under our overlays; by itself verl writes <project>/<run>.jsonl
REWARD = "critic/rewards/mean"
STEP_SECONDS = "timing_s/step"
FEW = (1, 2, 4, 8)  # the k worth a row; the largest one measured comes on top
_PASS_AT_K = re.compile(r"^verl_ext/val/(?P<source>.+)/pass@(?P<k>\d+)$")
_MEAN_AT_N = re.compile(r"^val-core/(?P<source>.+)/(?P<what>acc|reward)/(?P<mean>mean@\d+)$")
_OF_TASK = re.compile(r"^verl_ext/task/(?P<task>.+)/(?P<what>advantage_share|reward|rows)$")
_FIRST_BYTES = re.compile(rb'^\{"step":-?\d+,"data":\{')  # as orjson writes a record


@dataclass(frozen=True)
class Series:
    """One metric over the run.

    Attributes:
        steps: training steps at which it was logged, ascending; 0 is before training.
        values: as many; NaN where verl logged one (JSON has ``null`` there).
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def at(self, step: int) -> float | None:
        """The value at a step; None where there is none."""
        return self.values[self.steps.index(step)] if step in self.steps else None


@dataclass(frozen=True)
class RunLog:
    """Everything one run logged.

    Attributes:
        path: the file it was read from.
        series: metric name -> series; metrics that are not numbers are left out.
    """

    path: Path
    series: Mapping[str, Series]

    @property
    def last_step(self) -> int:
        """The last step that logged anything; 0 if none did."""
        return max((series.steps[-1] for series in self.series.values()), default=0)

    @property
    def data_sources(self) -> list[str]:
        """The validated data sources, sorted."""
        matches = (_PASS_AT_K.match(name) or _MEAN_AT_N.match(name) for name in self.series)
        return sorted({match["source"] for match in matches if match})

    def pass_at_k(self, source: str) -> dict[int, Series]:
        """k -> pass@k in [0, 1] of a data source, k ascending; empty where it was not measured."""
        matched = ((_PASS_AT_K.match(name), series) for name, series in self.series.items())
        found = {int(m["k"]): series for m, series in matched if m and m["source"] == source}
        return dict(sorted(found.items()))

    def validation(self, source: str) -> dict[str, Series]:
        """Label -> series of a data source: pass@k for a few k, else verl's own mean@n.

        Args:
            source: one of :attr:`data_sources`.
        """
        curves = self.pass_at_k(source)
        if curves:
            return {f"pass@{k}": curves[k] for k in few(curves)}
        matched = ((_MEAN_AT_N.match(name), series) for name, series in self.series.items())
        return {
            f"{m['what']} {m['mean']}": series
            for m, series in matched
            if m and m["source"] == source
        }

    def by_task(self, what: str) -> dict[str, Series]:
        """Task -> series, by name; empty where the trainer was not told what the tasks are.

        Args:
            what: ``reward`` (mean), ``rows`` (sessions), or ``advantage_share`` (of the batch's sum
                of |advantage|, in [0, 1]). A step without rows of a task logs none of it.
        """
        matched = ((_OF_TASK.match(name), series) for name, series in self.series.items())
        found = {m["task"]: series for m, series in matched if m and m["what"] == what}
        return dict(sorted(found.items()))


def few(ks: Iterable[int]) -> list[int]:
    """1, 2, 4 and 8 as far as they are among ``ks``, and the largest of them, ascending."""
    measured = set(ks)
    return sorted({k for k in FEW if k in measured} | {max(measured)}) if measured else []


def read(path: str | Path) -> RunLog:
    """Reads a metrics file.

    A run that was killed may leave its last line half written: that line is ignored, with a word on
    stdout. A metric logged twice at one step keeps its later value.

    Args:
        path: written by verl's ``file`` logger.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no record; the message has its number.
    """
    path = Path(path)
    lines = path.read_bytes().split(b"\n")
    unfinished = lines.pop()  # empty where the file ends with a newline
    records = [_record(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if unfinished.strip():
        try:
            records.append(_record(unfinished, path, len(lines) + 1))
        except ValueError:
            print(f"{path}: ignored line {len(lines) + 1}, cut short when the run was stopped")
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for step, data in records:
        for name, value in data.items():
            if value is None:
                values[name][step] = math.nan
            elif isinstance(value, int | float):
                values[name][step] = float(value)
    return RunLog(path, {name: _series(by_step) for name, by_step in values.items()})


def _record(line: bytes, path: Path, number: int) -> tuple[int, dict[str, Any]]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: not JSON: {error}") from None
    step = record.get("step") if isinstance(record, dict) else None
    data = record.get("data") if isinstance(record, dict) else None
    if not isinstance(step, int) or not isinstance(data, dict):
        raise ValueError(
            f'{path}, line {number}: not of the form {{"step": integer, "data": {{...}}}}; '
            "is this a file of verl's file logger?"
        )
    return step, data


def _series(by_step: Mapping[int, float]) -> Series:
    steps = tuple(sorted(by_step))
    return Series(steps, tuple(by_step[step] for step in steps))


def find(run_dir: str | Path) -> Path:
    """The metrics file of a run.

    Args:
        run_dir: the run's directory, or one above it: the newest file below is taken, and said on
            stdout if there are several. A file is returned as it is.

    Raises:
        FileNotFoundError: there is no such directory, or no metrics file in it.
    """
    run_dir = Path(run_dir)
    if run_dir.is_file():
        return run_dir
    if not run_dir.exists():
        raise FileNotFoundError(f"no such run directory: {run_dir}")
    found = [path for path in run_dir.rglob("*.jsonl") if _is_metrics_file(path)]
    if not found:
        raise FileNotFoundError(
            f"no {METRICS_FILE} below {run_dir}: verl writes it when the run has "
            "trainer.logger=[file] (our overlays add it)"
        )
    newest = max(found, key=lambda path: (path.stat().st_mtime_ns, str(path)))
    if len(found) > 1:
        print(f"{len(found)} metrics files below {run_dir}, took the newest: {newest}")
    return newest


def _is_metrics_file(path: Path) -> bool:
    # verl dumps generations as .jsonl too, hence the look inside.
    with path.open("rb") as file:
        return path.name == METRICS_FILE or bool(_FIRST_BYTES.match(file.read(64)))


def summary(log: RunLog, seconds: float | None = None) -> str:
    """The table at the end of a run: what it could do before, and after.

    Args:
        log: of the run.
        seconds: wall time of the whole run; left out of the table if None.

    Returns:
        Lines without a final newline.
    """
    curves = {
        (source, label): series
        for source in log.data_sources
        for label, series in log.validation(source).items()
    }
    rewards = {("reward", "mean"): log.series[REWARD]} if REWARD in log.series else {}
    rewards |= {("reward", f"of {task}"): it for task, it in log.by_task("reward").items()}
    rows = [*_rows("validation", curves), *_rows("training", rewards)]
    lines = aligned(rows, names=2)
    if not curves:
        lines.append("no validation was logged (trainer.val_before_train, trainer.test_freq)")
    return "\n".join([*lines, _footer(log, seconds)])


def _rows(title: str, curves: Mapping[tuple[str, str], Series]) -> list[tuple[str, ...]]:
    if not curves:
        return []
    first = min(series.steps[0] for series in curves.values())
    last = max(series.steps[-1] for series in curves.values())
    rows: list[tuple[str, ...]] = [(title, "", f"step {first}", f"step {last}", "change")]
    shown = None
    for (source, label), series in curves.items():
        before, after = series.at(first), series.at(last)
        change = None if before is None or after is None or first == last else after - before
        cells = (number(before), number(after), number(change, "+.3f"))
        rows.append(("" if source == shown else source, label, *cells))
        shown = source
    return rows


def _footer(log: RunLog, seconds: float | None) -> str:
    parts = [f"{log.last_step} steps"]
    if STEP_SECONDS in log.series:
        parts.append(f"{median(log.series[STEP_SECONDS].values):.1f} s a step (median)")
    if seconds is not None:
        parts.append(f"{duration(seconds)} in all")
    return ", ".join(parts)
