"""Logs of runs that are drawn, and what a figure shows of them."""

import struct
from pathlib import Path

from verl_ext.run_log import RunLog, Series

STEPS = (1, 2, 3, 4)
TRAINING = {
    "critic/rewards/mean": Series(STEPS, (0.125, 0.25, 0.5, 0.75)),
    "actor/entropy": Series(STEPS, (2.0, 1.5, 1.25, 1.0)),
    "response_length/mean": Series(STEPS, (9.0, 8.0, 7.0, 7.5)),
}


def curves(source, before=0.0, after=0.25, n=8):
    return {
        f"verl_ext/val/{source}/pass@{k}": Series((0, 4), (before + k / 16, after + k / 16))
        for k in range(1, n + 1)
    }


def of_tasks(what, steps=STEPS, **tasks):
    return {
        f"verl_ext/task/{name.replace('__', '/')}/{what}": Series(steps, values)
        for name, values in tasks.items()
    }


def log_of(*parts):
    return RunLog(Path("metrics.jsonl"), {k: v for part in parts for k, v in part.items()})


def lines(axes):
    return {
        line.get_label(): (tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines
    }


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])  # width and height in the header chunk
