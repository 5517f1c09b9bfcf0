"""``verl-ext list``: every overlay and every part, with the line to type."""

import argparse
import textwrap
from collections.abc import Iterable
from typing import Any

WIDTH = 100
INDENT = 4


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    subparsers.add_parser("list", help="every paper and every part, with the line to type")


def run(arguments: argparse.Namespace) -> int:
    """Prints the catalog."""
    print("\n".join(lines()))
    return 0


def lines() -> list[str]:
    """The catalog as text; no line is longer than WIDTH unless it is one to type."""
    from verl_ext import overlays
    from verl_ext.catalog import ADVANTAGES, MASKS, MIXERS, REWARDS, SAMPLERS
    from verl_ext.papers import PAPERS

    text = ["Papers: a whole recipe in one line, or mixed into your own command"]
    for name, paper in PAPERS.items():
        text += _entry(f"+paper={name}", paper.summary, _facts(paper))
    parts = {
        "Advantage estimators": ADVANTAGES | MIXERS,
        "Rewards": REWARDS,
        "Masks": MASKS,
        "Samplers": SAMPLERS,
    }
    for title, plugins in parts.items():
        text += ["", f"{title}: one part, added to a command of your own"]
        for name, plugin in plugins.items():
            used = [("used by", ", ".join(f"+paper={overlay}" for overlay in plugin.overlays))]
            text += _entry(name, plugin.summary, [*_facts(plugin), *used])
    text += ["", "Where and on what (a +scale brings its task: replace it with task=, no plus)"]
    for group in ("scale", "task"):
        head = f"{'':{INDENT}}+{group}= "
        line = head + ", ".join(sorted(overlays.names(group), key=_by_size))
        text += textwrap.wrap(line, WIDTH, subsequent_indent=" " * len(head))
    return text


def _by_size(name: str) -> tuple[str, int]:
    letters = name.rstrip("0123456789")
    return letters, int(name[len(letters) :] or 0)  # gpu8 before gpu64


def _facts(entry: Any) -> list[tuple[str, str]]:
    fields = ", ".join(getattr(entry, "needs", ()))
    return [
        ("paper", f"{entry.title}, {entry.url}"),
        ("needs", "; ".join(part for part in (entry.requires, fields) if part)),
        ("type", entry.line),
    ]


def _entry(name: str, summary: str, facts: Iterable[tuple[str, str]]) -> list[str]:
    text = ["", *_wrapped(f"{name}  ", summary)]
    for label, value in facts:
        if label == "type":  # copied whole, so never broken
            text.append(f"{'':{INDENT}}{label:<8} {value}")
        elif value:
            text += _wrapped(f"{'':{INDENT}}{label:<8} ", value)
    return text


def _wrapped(head: str, value: str) -> list[str]:
    return textwrap.wrap(
        value, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )
