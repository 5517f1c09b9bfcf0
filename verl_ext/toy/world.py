"""The toy world on disk: a warmed-up model, its problems and its teachers, built once and cached.

A folder is named by the hash of its recipe and of the code below, so that another variant, or a
change of one, rebuilds nothing else.
"""

import dataclasses
import hashlib
import json
import random
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from verl_ext.reward_fns import string_composition, string_functions
from verl_ext.self_teaching import texts
from verl_ext.toy import demonstrations as toy_demonstrations
from verl_ext.toy import feedback as toy_feedback
from verl_ext.toy import free_form as toy_free_form
from verl_ext.toy import hints as toy_hints
from verl_ext.toy import model as toy_model
from verl_ext.toy import task as toy_task
from verl_ext.toy import tokenizer as toy_tokenizer
from verl_ext.toy.cache import MANIFEST, build_once, cache_root
from verl_ext.toy.task import Problem, Split
from verl_ext.toy.variants import Recipe, recipe_of


@dataclass(frozen=True)
class World:
    """Where the parts of a world lie.

    Attributes:
        root: the cached folder; model: a Hugging Face model with its tokenizer; train and val:
            parquet files in verl's format; teachers: name -> a folder like ``model``, in the order
            of the recipe.
    """

    root: Path
    model: Path
    train: Path
    val: Path
    teachers: dict[str, Path] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Path]:
        """What a configuration can name; ``teacher`` is the first of the teachers."""
        parts = {"model": self.model, "train": self.train, "val": self.val}
        if self.teachers:
            parts["teacher"] = next(iter(self.teachers.values()))
        return parts | {f"teacher_{name}": path for name, path in self.teachers.items()}

    def part(self, name: str) -> Path:
        """Returns where a part lies.

        Raises:
            ValueError: the world has no such part; names those it has.
        """
        parts = self.parts
        if name not in parts:
            raise ValueError(f"this toy world has no part {name!r}; it has {', '.join(parts)}")
        return parts[name]


def sources() -> list[Path]:
    """Returns the code whose change makes another world of the same recipe."""
    modules = (
        toy_task, toy_demonstrations, toy_free_form, toy_model, toy_hints, toy_feedback, texts,
        toy_tokenizer, string_composition, string_functions,
    )  # fmt: skip
    return [*(Path(str(module.__file__)) for module in modules), Path(__file__)]


def fingerprint(recipe: Recipe) -> str:
    """Returns 12 hex digits of the recipe and of the source of the code that carries it out."""
    state = hashlib.sha256(json.dumps(dataclasses.asdict(recipe), sort_keys=True).encode())
    for source in sources():
        state.update(source.read_bytes())
    return state.hexdigest()[:12]


def path_of(variant: str, cache_dir: Path | None = None) -> Path:
    """Returns the folder of a variant, built or not; builds nothing.

    Raises:
        ValueError: there is no such variant.
    """
    return cache_root(cache_dir) / "toy" / f"{variant}-{fingerprint(recipe_of(variant))}"


def world_of(variant: str, cache_dir: Path | None = None) -> World:
    """Returns where the parts of a variant lie, built or not; builds nothing.

    Raises:
        ValueError: there is no such variant.
    """
    root = path_of(variant, cache_dir)
    teachers = {name: root / f"teacher_{name}" for name, _ in recipe_of(variant).teachers}
    return World(root, root / "model", root / "train.parquet", root / "val.parquet", teachers)


def verl_row(
    problem: Problem, data_source: str, split: Split, index: int, *, free_form: bool = False
) -> dict[str, Any]:
    """Returns the row of verl's data format that asks for one problem."""
    truth = toy_free_form.reference(problem) if free_form else problem.answer
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": problem.prompt}],
        "ability": "string_composition",
        "reward_model": {"style": "rule", "ground_truth": truth},
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
    wanted, whose = recipe.validation, split
    if split == "train":
        wanted, whose = recipe.train, recipe.train_split
    rng = random.Random(recipe.seed)
    chosen = [
        (problem, data_source)
        for data_source, count in wanted
        for problem in toy_task.distinct(
            toy_task.stream(recipe.task, data_source, whose, rng), count
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
    return [
        verl_row(*each, split, index, free_form=recipe.free_form)
        for index, each in enumerate(chosen)
    ]


def warmed_up(recipe: Recipe, worlds: Path, *, progress: bool = True) -> Path:
    """Returns the folder of a recipe's model and tokenizer, built below ``worlds`` if need be.

    Recipes that differ in their prompts and teachers alone share it, so that what they show is
    compared on the same weights and the second costs no minute; so do models and teachers whose
    training begins alike, up to where it parts.
    """
    alone = replace(recipe, teachers=(), train=(), train_split="train", validation=(), seed=0)

    def warm_up(folder: Path) -> None:
        start, spec = None, alone.warmup
        if alone.tuning:
            *before, spec = alone.tuning
            start = warmed_up(replace(alone, tuning=tuple(before)), worlds, progress=progress)
        model = toy_model.warm_up(alone.task, alone.model, spec, start=start, progress=progress)
        toy_model.save_model(model, folder)
        toy_tokenizer.save_tokenizer(folder)

    return build_once(worlds / f"warmed_up-{fingerprint(alone)}", warm_up)


def build(recipe: Recipe, folder: Path, *, progress: bool = True) -> None:
    """Writes the model and the teachers, with their tokenizer, and both data files into ``folder``.

    Models are trained beside ``folder``, unless another world has left them there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files: dict[Split, str] = {"train": "train.parquet", "validation": "val.parquet"}
    for split, name in files.items():
        pq.write_table(pa.Table.from_pylist(verl_rows(recipe, split)), folder / name)
    models = {"model": recipe}
    for name, tuning in recipe.teachers:
        models[f"teacher_{name}"] = replace(recipe, tuning=tuning)
    for part, trained_as in models.items():
        model = warmed_up(trained_as, folder.parent, progress=progress)
        shutil.copytree(model, folder / part, ignore=shutil.ignore_patterns(MANIFEST))


def ensure(
    variant: str = "w_reinforce", *, cache_dir: Path | None = None, progress: bool = True
) -> World:
    """Returns a world, from the cache when it is whole there, else built first (some minutes).

    Args:
        variant: a name in ``variants.VARIANTS``.
        cache_dir: where worlds are kept; ``$VERL_EXT_CACHE`` or the user's cache by default.
        progress: whether the build shows a progress bar.

    Raises:
        ValueError: there is no such variant.
    """
    recipe, world = recipe_of(variant), world_of(variant, cache_dir)
    build_once(world.root, lambda folder: build(recipe, folder, progress=progress))
    return world
