"""``verl-ext list``: every plugin with its paper, what it needs and the line to type."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl_ext.catalog import Paper, Plugin

WIDTH = 96
LABEL = 7  # width of the labels: "paper", "does", "needs", "used by", "type"


def add_parser(subparsers: Any) -> None:
    """Adds ``list`` to the command.

    Args:
        subparsers: what argparse's ``add_subparsers`` returned.
    """
    subparsers.add_parser("list", help="every plugin: its paper, its needs, the line to type")


def run(args: argparse.Namespace) -> int:
    """Prints the catalog.

    Args:
        args: without fields of its own.

    Returns:
        The exit status, 0.
    """
    # Here, not above: the catalog imports torch, and --help need not wait for it.
    from verl_ext.catalog import ADVANTAGES, MASKS, PAPERS

    print("PAPERS: whole recipes, +paper=NAME")
    for name, paper in PAPERS.items():
        print(_entry(name, _rows_of_paper(paper)))
    for heading, plugins in (
        ("ADVANTAGE ESTIMATORS: algorithm.adv_estimator=NAME", ADVANTAGES),
        ("MASKS: +algorithm.verl_ext.masks.NAME={}", MASKS),
    ):
        print(f"\n{heading}")
        for name, plugin in plugins.items():
            print(_entry(name, _rows_of_plugin(plugin)))
    return 0


def _rows_of_paper(paper: Paper) -> Iterator[tuple[str, str]]:
    yield "does", paper.summary
    yield "paper", f"{paper.title}, {paper.url}"
    yield "needs", paper.requires
    yield "type", paper.line


def _rows_of_plugin(plugin: Plugin) -> Iterator[tuple[str, str]]:
    yield "does", plugin.summary
    yield "paper", f"{plugin.title}, {plugin.url}"
    yield "needs", "; ".join(filter(None, [", ".join(plugin.needs), plugin.requires]))
    yield "used by", ", ".join(f"+paper={name}" for name in plugin.overlays)
    yield "type", plugin.line


def _entry(name: str, rows: Iterator[tuple[str, str]]) -> str:
    indent = " " * (LABEL + 6)
    lines = ["", f"  {name}"]
    for label, text in rows:
        first = f"    {label:<{LABEL}}  "
        if label == "type":
            lines.append(first + text)  # whole, so that it can be copied
        else:
            # break_long_words: an address stays whole too
            lines += textwrap.wrap(
                text, WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False
            )
    return "\n".join(lines)
