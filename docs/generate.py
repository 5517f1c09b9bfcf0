"""Writes the generated pages: papers, configuration, capability matrix, benchmarks, mutants.

    python docs/generate.py          # write
    python docs/generate.py --check  # 1 if a page is stale

What they say is read from ``verl_ext/papers.py``, the overlays' YAML with its comments, and the
docstrings of what reads each section of ``algorithm.verl_ext``. Change those, never the pages.
"""

import argparse
import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docstring_parser
from benchmark_table import benchmarks
from capability_table import capability
from lines_table import expected
from markup import plain, sentence, slug, table
from mutation_table import mutation
from overlay_tables import overlay

from verl_ext import papers
from verl_ext.adapters.judge.settings import BreakerSettings, JudgeSettings
from verl_ext.adapters.reference_probability.settings import ReferenceProbability, Weights
from verl_ext.adapters.teacher.settings import Divergence, Mix, Teacher
from verl_ext.adapters.tournament.settings import Anchor, Tournament
from verl_ext.catalog import ADVANTAGES, MASKS, MIXERS
from verl_ext.reward_fns.reference_reward import Format, Repetition
from verl_ext.reward_fns.response_format import Tags
from verl_ext.sampling.stream import TaskBalancedStream
from verl_ext.self_teaching.attempts import Attempts
from verl_ext.self_teaching.choice import Rules
from verl_ext.self_teaching.texts import Texts
from verl_ext.simulated_judge.annotator import Annotator
from verl_ext.simulated_judge.faults import Faults
from verl_ext.simulated_judge.settings import ServerSettings
from verl_ext.toy.variants import VARIANTS

DOCS = Path(__file__).resolve().parent
RECIPES = DOCS.parent / "recipes"
NOTE = "<!-- Written by docs/generate.py (`make docs`); changes here are lost. -->"
KEY = "algorithm.verl_ext"
GROUPS = ("paper", "scale", "task", "actor", "ref", "critic", "model")
# The keys that are one value: default and meaning. What reads a section has a docstring instead.
VALUES = {
    "task_key": ("data_source", "the column of the data that names a prompt's task"),
    "deterministic": (False, "a run is a function of its configuration (determinism.md)"),
    "toy": ("w_reinforce", f"variant of the toy world under task=toy: {', '.join(VARIANTS)}"),
    "verbose": (False, "verl's full output on the terminal instead of the progress bar"),
    "preload": (False, "processes are forked from one that has imported everything (cpu.md)"),
    "changed_settings": ("refuse", "a run resumed with other settings; accept: it goes on"),
    "not_finite": ("stop", "where a stage gives NaN or infinity; report: it goes on"),
    "cpu.train_batch_size": (None, "in the place of `+scale=cpu`'s; prompts a step"),
    "cpu.ppo_mini_batch_size": (None, "in the place of `+scale=cpu`'s; prompts an update"),
    "cpu.n": (None, "in the place of `+scale=cpu`'s; responses a prompt"),
    "cpu.lr": (None, "in the place of `+scale=cpu`'s; learning rate"),
}
TOURNAMENT, REFERENCE = "group_reward.tournament", "group_reward.reference_probability"
SECTIONS: dict[str, tuple[Callable[..., Any], ...]] = {  # key -> what reads it
    "sampler.task_balanced": (TaskBalancedStream,),
    "teacher": (Teacher,),
    "teacher.hints": (Rules,),
    "teacher.texts": (Texts,),
    "divergence": (Divergence,),
    REFERENCE: (ReferenceProbability,),
    f"{REFERENCE}.tags": (Tags,),
    f"{REFERENCE}.format": (Format,),
    f"{REFERENCE}.repetition": (Repetition,),
    f"{REFERENCE}.weights.SOURCE": (Weights,),
    TOURNAMENT: (Tournament,),
    f"{TOURNAMENT}.anchor": (Anchor,),
    f"{TOURNAMENT}.judge": (JudgeSettings,),
    f"{TOURNAMENT}.judge.breaker": (BreakerSettings,),
    f"{TOURNAMENT}.simulated": (ServerSettings, Annotator),
    f"{TOURNAMENT}.simulated.faults": (Faults,),
    "test_time": (Attempts,),
}
# Parameters of these that are no keys.
NO_KEYS: dict[Callable[..., Any], tuple[str, ...]] = {
    TaskBalancedStream: ("seed", "shuffle"),
    Mix: ("term",),
    Tournament: ("urls",),
    ServerSettings: ("annotator", "faults"),
    Attempts: ("count", "solved"),
}


def main() -> int:
    """Writes the pages, or compares them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page is stale")
    check = parser.parse_args().check
    stale = {name: text for name, text in pages().items() if _read(DOCS / name) != text}
    for name, text in stale.items():
        print(f"docs/{name} {'is stale: make docs' if check else 'written'}")
        if not check:
            (DOCS / name).write_text(text, encoding="utf-8")
    return int(check and bool(stale))


def pages() -> dict[str, str]:
    """The generated pages, by their names in docs/."""
    on_cpu = [name for name, paper in papers.PAPERS.items() if "+scale=cpu" in paper.line]
    return {
        "papers/index.md": _index(),
        "configuration.md": _configuration(),
        "benchmarks.md": "\n".join([NOTE, *benchmarks()]) + "\n",
        "mutation.md": "\n".join([NOTE, *mutation()]) + "\n",
        "capability.md": "\n".join([NOTE, *capability(on_cpu)]) + "\n",
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _index() -> str:
    rows = [
        (f"[`{name}`](#{slug(name)})", f"[{paper.title}]({paper.url})", paper.summary)
        for name, paper in papers.PAPERS.items()
    ]
    lines = [
        NOTE, "# Papers", "",
        "Each overlay is a whole recipe in one line, or a part of a command of your own: see",
        "[mix it into your pipeline](../mix.md).", "",
        *table(("overlay", "paper", "what it does to learning"), rows), *expected(),
    ]  # fmt: skip
    for name, paper in papers.PAPERS.items():
        page = _page_of(name)
        needs = f" Needs: {paper.requires}." if paper.requires else ""
        lines += [
            "", f"## {name}", "",
            f"{sentence(paper.summary)}{needs} [What it is and how we checked it]({page});",
            f"[its keys](../configuration.md#{slug(f'paper: {name}')}).",
            "", "```bash", paper.line, "```",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _page_of(overlay: str) -> str:
    """The page of an overlay: its own, that of the method it is a preset of, or of its paper."""
    url = papers.PAPERS[overlay].url
    same = [name for name, paper in papers.PAPERS.items() if paper.url == url]
    there = [name for name in same if (DOCS / "papers" / f"{name}.md").exists()]
    own = [name for name in there if overlay.startswith(name)]
    return f"{[*own, *there][0]}.md"


def _configuration() -> str:
    values = [(f"`{key}`", f"`{_json(value)}`", said) for key, (value, said) in VALUES.items()]
    lines = [
        NOTE, "# Configuration", "",
        f"Everything under `{KEY}`, and what each overlay sets. An unknown key is an error that",
        "names the nearest valid one, and so is a setting that would have no effect.", "",
        f"## {KEY}", "", *table(("key", "default", "meaning"), values),
    ]  # fmt: skip
    for title, entry in _sections():
        lines += ["", f"### {title}", "", *entry]
    lines += [
        "", "## Overlays", "",
        "`+paper=`, `+scale=` and `+task=` (with a scale `task=`); the engine parts `actor`,",
        "`ref`, `critic` and `model` are chosen by the scale. Values in `${verl_ext_...}` are",
        "computed when the run starts: a part of the toy under `task=toy`, or a number that",
        "follows from lengths.",
    ]  # fmt: skip
    for group in GROUPS:
        for path in sorted((RECIPES / group).glob("*.yaml")):
            lines += [
                "",
                f"### {group}: {path.stem}",
                "",
                *overlay(path.read_text(encoding="utf-8")),
            ]
    return "\n".join(lines) + "\n"


def _sections() -> Iterator[tuple[str, list[str]]]:
    """Title and text of each section of ``algorithm.verl_ext``."""
    for name, plugin in ADVANTAGES.items():
        yield f"advantage: {name}", _section(plugin.summary, plugin.function)
    for name, plugin in MIXERS.items():
        yield f"advantage: {name}", _section(plugin.summary, Mix, plugin.function)
    for name, plugin in MASKS.items():
        yield f"masks.{name}", _section(plugin.summary, plugin.function)
    for key, readers in SECTIONS.items():
        said = docstring_parser.parse(readers[0].__doc__ or "").short_description or ""
        yield key, _section(plain(said), *readers)


def _section(summary: str, *readers: Callable[..., Any]) -> list[str]:
    rows = [row for reader in readers for row in _rows(reader)]
    keys = table(("key", "default", "meaning"), rows) if rows else ["It takes no settings: `{}`."]
    return [sentence(summary), "", *keys]


def _rows(made: Callable[..., Any]) -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of each parameter that a configuration may name.

    Raises:
        ValueError: a parameter is not described.
    """
    meanings: dict[str, str] = {}
    for said in docstring_parser.parse(made.__doc__ or "", docstring_parser.Style.GOOGLE).params:
        meanings.setdefault(said.arg_name, said.description or "")
    for item in inspect.signature(made).parameters.values():
        key = dataclasses.is_dataclass(made) or item.kind is item.KEYWORD_ONLY
        if not key or item.name in NO_KEYS.get(made, ()):
            continue
        if not meanings.get(item.name):
            raise ValueError(f"{made.__qualname__}: its docstring does not describe {item.name}")
        default = "required" if item.default is item.empty else f"`{_json(_default(made, item))}`"
        yield f"`{item.name}`", default, plain(meanings[item.name])


def _default(made: Any, item: inspect.Parameter) -> Any:
    """A parameter's default; that of a data class's factory is what it makes."""
    for each in dataclasses.fields(made) if dataclasses.is_dataclass(made) else ():
        if each.name == item.name and each.default_factory is not dataclasses.MISSING:
            return each.default_factory()
    return item.default


def _json(value: Any) -> str:
    """A value on one line, as YAML reads it too."""
    return json.dumps(value, ensure_ascii=False).strip('"')


if __name__ == "__main__":
    sys.exit(main())
