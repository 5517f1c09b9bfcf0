"""What a person sees of a run: one progress bar, then a table and a picture.

A Hydra callback named by our overlays. verl's own output, of the driver and of every Ray process,
goes to ``verl.log`` in the run's directory; ``algorithm.verl_ext.verbose=true`` leaves all of it on
the terminal instead.
"""

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from verl_ext import run_log

LOG_FILE = "verl.log"
PICTURE = "run.png"
STEP_LINE = re.compile(r"^step:\d+ - ")
OURS = "[verl_ext] "  # how lines of ours begin: few, and for a person
LAST_WORDS = 30  # lines shown of a process that failed
# Set when the driver has checked the configuration and built what the run needs: the bar begins.
READY = threading.Event()
TROUBLE = re.compile(r"Traceback|Error\b|Exception\b")


class RunView(Callback):
    """Shows the run that the overlays configure; see the module docstring."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._logs: WorkerLogs | None = None
        self._started = time.monotonic()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Takes over the terminal before verl starts."""
        self._started = time.monotonic()
        if OmegaConf.select(config, "algorithm.verl_ext.verbose"):
            return
        directory = Path(config.hydra.runtime.output_dir)
        log = self._stack.enter_context((directory / LOG_FILE).open("w", buffering=1))
        self._logs = WorkerLogs(log, show_steps="console" in config.trainer.logger)
        self._stack.enter_context(self._logs.listening())
        self._stack.enter_context(contextlib.redirect_stdout(log))
        bar = ProgressBar(metrics_file(config), config.trainer.total_training_steps)
        self._stack.enter_context(bar.running())

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Gives the terminal back; says what came of the run, or why it failed."""
        self._stack.close()
        seconds = time.monotonic() - self._started
        directory = Path(config.hydra.runtime.output_dir)
        if job_return.status is JobStatus.COMPLETED:
            report(directory, metrics_file(config), config.trainer.experiment_name, seconds)
        elif self._logs is not None and READY.is_set():
            self._logs.show_trouble(directory / LOG_FILE)


def metrics_file(config: DictConfig) -> Path:
    """Where verl's file logger writes (``machine.prepare`` tells it so)."""
    chosen = os.environ.get("VERL_FILE_LOGGER_PATH")
    return Path(chosen) if chosen else Path(config.hydra.runtime.output_dir) / run_log.METRICS_FILE


def in_use() -> bool:
    """Whether this process runs under a :class:`RunView`."""
    if not HydraConfig.initialized():
        return False
    return "verl_ext" in (HydraConfig.get().callbacks or {})


def report(directory: Path, metrics: Path, title: str, seconds: float) -> None:
    """Prints the table and draws the picture of a finished run."""
    if not metrics.exists():
        print(f"[verl_ext] the run logged nothing to {metrics}: no table, no picture")
        return
    from verl_ext import plotting

    log = run_log.read(metrics)
    print(run_log.summary(log, seconds))
    plotting.draw_run(log, directory / PICTURE, title)
    print(f"picture: {directory / PICTURE}")
    if (directory / LOG_FILE).exists():
        print(f"verl's output: {directory / LOG_FILE}")


class WorkerLogs:
    """Receives what Ray's processes print, in place of Ray's own printer."""

    def __init__(self, sink: TextIO, *, show_steps: bool) -> None:
        self._sink = sink
        self._show_steps = show_steps
        self._last: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=LAST_WORDS))
        self._troubled: dict[str, None] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Replaces Ray's printer for the duration."""
        import ray._private.worker as ray_worker
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

        # Off for good: processes go on printing while Ray shuts down, after the run's report.
        ray_worker._worker_logs_enabled = False
        dispatcher.add_handler("verl_ext", self.receive)
        try:
            yield
        finally:
            dispatcher.remove_handler("verl_ext")

    def receive(self, batch: dict[str, Any]) -> None:
        """Handles lines of one process: ``{"pid", "actor_name", "lines", ...}``."""
        process = f"{batch.get('actor_name') or batch.get('task_name') or ''} pid={batch['pid']}"
        for line in batch["lines"]:
            self._sink.write(f"({process.strip()}) {line}\n")
            self._last[process].append(line)
            if TROUBLE.search(line):
                self._troubled[process] = None
            if line.startswith(OURS) or (self._show_steps and STEP_LINE.match(line)):
                tqdm.write(line, file=sys.__stdout__)

    def show_trouble(self, log_file: Path) -> None:
        """Prints the last words of the processes that reported an error, first one first."""
        for process in list(self._troubled)[:3]:
            print(f"\n[verl_ext] last lines of {process.strip()}:", file=sys.stderr)
            print("\n".join(self._last[process]), file=sys.stderr)
        print(f"[verl_ext] everything the run printed: {log_file}", file=sys.stderr)


class ProgressBar:
    """A bar on stderr, fed from verl's metrics file."""

    def __init__(self, metrics: Path, total_steps: int | None) -> None:
        self._metrics = metrics
        self._total = total_steps
        self._stop = threading.Event()
        self._position = 0
        self._reward = self._validation = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Shows the bar for the duration."""
        self._position = self._metrics.stat().st_size if self._metrics.exists() else 0
        thread = threading.Thread(target=self._run, name="verl_ext_progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while not READY.wait(0.2):
            if self._stop.is_set():
                return  # refused before it began
        with tqdm(
            total=self._total,
            unit="step",
            desc="starting Ray, vLLM and the trainer",
            file=sys.stderr,
            dynamic_ncols=True,
        ) as bar:
            while not self._stop.wait(0.5):
                self._advance(bar)
                if sys.stderr.isatty():  # the clock goes on; a log file wants no line for that
                    bar.refresh()
            self._advance(bar)

    def _advance(self, bar: Any) -> None:
        for record in self._new_records():
            data = record["data"]
            if "critic/rewards/mean" in data:
                self._reward = f"reward {data['critic/rewards/mean']:.3f}"
            passed = {key: data[key] for key in data if key.endswith("/pass@1")}
            if passed:
                self._validation = " ".join(
                    f"{_data_source(key)} {value:.3f}" for key, value in sorted(passed.items())
                )
            shown = [self._reward, self._validation and f"validation {self._validation}"]
            bar.set_description(" · ".join(text for text in shown if text), refresh=False)
            bar.update(record["step"] - bar.n)

    def _new_records(self) -> Iterator[dict[str, Any]]:
        if not self._metrics.exists():
            return
        with self._metrics.open("rb") as file:
            if self._metrics.stat().st_size < self._position:
                self._position = 0  # verl truncates the file when it opens it
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written
                self._position += len(line)
                yield json.loads(line)


def _data_source(key: str) -> str:
    """``openai/gsm8k`` of ``verl_ext/val/openai/gsm8k/pass@1``: a name may hold slashes."""
    return key.removeprefix("verl_ext/val/").rpartition("/")[0]
