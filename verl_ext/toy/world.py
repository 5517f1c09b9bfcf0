"""The toy world on disk: a warmed-up model and its problems, built on the spot and cached."""

import dataclasses
import difflib
import hashlib
import json
import random
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from verl_ext.reward_fns import string_composition, string_functions
from verl_ext.toy import model as toy_model
from verl_ext.toy import task as toy_task
from verl_ext.toy import tokenizer as toy_tokenizer
from verl_ext.toy.cache import MANIFEST, build_once, cache_root
from verl_ext.toy.model import ModelSpec, WarmupSpec
from verl_ext.toy.task import Problem, Split, TaskSpec


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a world contains; its hash names the cached folder.

    Attributes:
        task: what the problems are made of.
        model: size of the model.
        warmup: the supervised training before reinforcement.
        train: (data source, number of prompts) pairs of the training file.
        validation: the same for the validation file.
        seed: of the choice of the prompts.
    """

    task: TaskSpec = field(default_factory=TaskSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    warmup: WarmupSpec = field(default_factory=WarmupSpec)
    train: tuple[tuple[str, int], ...] = (("toy", 2048),)
    validation: tuple[tuple[str, int], ...] = (("toy", 64), ("toy_held_out", 64))
    seed: int = 0


BASE = Recipe()
VARIANTS: dict[str, Recipe] = {
    "w_reinforce": BASE,
    # Trained for longer and on careful demonstrations alone: knows what the base only half knows.
    "teacher": replace(
        BASE, warmup=replace(BASE.warmup, steps=3 * BASE.warmup.steps, careless_share=0.0)
    ),
    # The base's model on three tasks of unequal size; their rewards have unequal scales.
    "three_tasks": replace(
        BASE,
        train=(("toy_exact", 1400), ("toy_letters", 350), ("toy_points", 150)),
        validation=(("toy_exact", 48), ("toy_letters", 48), ("toy_points", 48)),
    ),
}


@dataclass(frozen=True)
class World:
    """Where the parts of a world lie.

    Attributes:
        root: the cached folder; model: a Hugging Face model with its tokenizer; train and val:
            parquet files in verl's format.
    """

    root: Path
    model: Path
    train: Path
    val: Path


def recipe_of(variant: str) -> Recipe:
    """Returns the recipe of a variant.

    Raises:
        ValueError: there is no such variant; names the nearest.
    """
    if variant not in VARIANTS:
        near = difflib.get_close_matches(variant, VARIANTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"toy variant must be one of {sorted(VARIANTS)}, got {variant!r}{hint}")
    return VARIANTS[variant]


def fingerprint(recipe: Recipe) -> str:
    """Returns 12 hex digits of the recipe and of the source of the code that carries it out."""
    modules = (toy_task, toy_model, toy_tokenizer, string_composition, string_functions)
    sources = [Path(str(module.__file__)) for module in modules] + [Path(__file__)]
    state = hashlib.sha256(json.dumps(dataclasses.asdict(recipe), sort_keys=True).encode())
    for source in sources:
        state.update(source.read_bytes())
    return state.hexdigest()[:12]


def path_of(variant: str, cache_dir: Path | None = None) -> Path:
    """Returns the folder of a variant, built or not; builds nothing.

    Raises:
        ValueError: there is no such variant.
    """
    return cache_root(cache_dir) / "toy" / f"{variant}-{fingerprint(recipe_of(variant))}"


def world_at(root: Path) -> World:
    """Returns the parts of the world in a folder, built or not."""
    return World(root, root / "model", root / "train.parquet", root / "val.parquet")


def verl_row(problem: Problem, data_source: str, split: Split, index: int) -> dict[str, Any]:
    """Returns the row of verl's data format that asks for one problem."""
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": problem.prompt}],
        "ability": "string_composition",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {
            "index": index,
            "split": split,
            "level": len(problem.skills),
            "skills": list(problem.skills),
            "word": problem.word,
        },
    }


def verl_rows(recipe: Recipe, split: Split) -> list[dict[str, Any]]:
    """Returns the rows of the training or the validation file, every prompt once.

    Raises:
        ValueError: a data source is unknown, not for this split, has too few problems, or shares a
            prompt with another one.
    """
    wanted = recipe.train if split == "train" else recipe.validation
    rng = random.Random(recipe.seed)
    chosen = [
        (problem, data_source)
        for data_source, count in wanted
        for problem in toy_task.distinct(
            toy_task.stream(recipe.task, data_source, split, rng), count
        )
    ]
    source_of: dict[Problem, str] = {}
    for problem, data_source in chosen:
        if problem in source_of:
            raise ValueError(
                f"{problem.prompt!r} is in both {source_of[problem]} and {data_source}: "
                f"data sources of one file must not overlap"
            )
        source_of[problem] = data_source
    return [verl_row(*each, split, index) for index, each in enumerate(chosen)]


def warmed_up(recipe: Recipe, worlds: Path, *, progress: bool = True) -> Path:
    """Returns the folder of a recipe's model and tokenizer, built below ``worlds`` if need be.

    Recipes that differ in the choice of their prompts alone share it, so that what they show is
    compared on the same weights and the second costs no minute.
    """

    def warm_up(folder: Path) -> None:
        model = toy_model.warm_up(recipe.task, recipe.model, recipe.warmup, progress=progress)
        toy_model.save_model(model, folder)
        toy_tokenizer.save_tokenizer(folder)

    name = f"warmed_up-{fingerprint(replace(recipe, train=(), validation=(), seed=0))}"
    return build_once(worlds / name, warm_up)


def build(recipe: Recipe, folder: Path, *, progress: bool = True) -> None:
    """Writes the warmed-up model, its tokenizer and both data files into ``folder``.

    The model is warmed up beside ``folder``, unless another world has left it there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files: dict[Split, str] = {"train": "train.parquet", "validation": "val.parquet"}
    for split, name in files.items():
        pq.write_table(pa.Table.from_pylist(verl_rows(recipe, split)), folder / name)
    model = warmed_up(recipe, folder.parent, progress=progress)
    shutil.copytree(model, folder / "model", ignore=shutil.ignore_patterns(MANIFEST))


def ensure(
    variant: str = "w_reinforce", *, cache_dir: Path | None = None, progress: bool = True
) -> World:
    """Returns a world, from the cache when it is whole there, else built first (about a minute).

    Args:
        variant: a name in ``VARIANTS``.
        cache_dir: where worlds are kept; ``$VERL_EXT_CACHE`` or the user's cache by default.
        progress: whether the build shows a progress bar.

    Raises:
        ValueError: there is no such variant.
    """
    recipe = recipe_of(variant)
    root = path_of(variant, cache_dir)
    build_once(root, lambda folder: build(recipe, folder, progress=progress))
    return world_at(root)
