"""The compact toy task: predict ``f3(f9(gab))``, a composition of two string functions out of six.

The functions and their numbers are those of the string-composition task; parameters are fixed,
words are short and answers fit 16 tokens, so that a model with half a million weights can learn
it. Source of the functions: "From f(x) and g(x) to f(g(x))", 2025,
https://arxiv.org/abs/2509.25123.

Who sees what (``Split``): every *prompt* belongs to exactly one of warm-up, RL training and
validation, by a hash of its text. Single functions are for the warm-up (and may be asked for in
validation, then with words the warm-up did not see); pairs of functions are trained on unless they
are held out; held-out pairs and every triple occur in validation alone.

The pairs can also be had as three tasks, parted by the outer function, so that no prompt is in two
of them and what one task teaches is not at once the whole of another. They are rewarded on
different scales (``verl_ext.toy.reward``): for methods that weigh tasks against each other. And
they can be had as two equal domains, again parted by the outer function: for teachers that know one
domain each, and for a skill that is lost while another is learned.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from verl_ext.reward_fns.string_composition import apply

Split = Literal["warmup", "train", "validation"]

# func id -> its fixed parameters: sort, rotate left by one, mirror, double each letter, reverse,
# drop the last letter of a word of odd length.
SKILLS: dict[int, tuple[int, ...]] = {3: (), 8: (1,), 9: (), 14: (), 17: (), 22: ()}
# The outer functions of each of the three tasks: those that keep the letters (or drop the last),
# the mirror, the doubling.
OUTER: dict[str, tuple[int, ...]] = {
    "toy_exact": (3, 8, 17, 22),
    "toy_letters": (9,),
    "toy_points": (14,),
}
# The outer functions of each of the two domains: sort, rotate, mirror; double, reverse, drop.
DOMAINS: dict[str, tuple[int, ...]] = {"toy_left": (3, 8, 9), "toy_right": (14, 17, 22)}
# The data source names the kind of problem; verl reports validation accuracy for each.
DATA_SOURCES = ("toy_single", "toy", "toy_held_out", "toy_level_3", *OUTER, *DOMAINS)
# Shares of the hash range, in percent; validation takes the rest.
WARMUP_SHARE, TRAIN_SHARE = 60, 30


@dataclass(frozen=True)
class TaskSpec:
    """What the problems are made of; part of the recipe a cached world is keyed by.

    Attributes:
        alphabet: letters of the words.
        min_length: shortest word, in letters.
        max_length: longest word, in letters.
        max_answer: longest answer, in letters; one token each, plus the eos token.
    """

    alphabet: str = "abcdef"
    min_length: int = 2
    max_length: int = 3
    max_answer: int = 12


@dataclass(frozen=True)
class Problem:
    """One question: functions in the order of application, the word, and what comes out."""

    skills: tuple[int, ...]
    word: str

    @property
    def prompt(self) -> str:
        """The question as text; the outermost function stands first."""
        heads = "".join(f"f{skill}(" for skill in reversed(self.skills))
        return f"{heads}{self.word}{')' * len(self.skills)}="

    @property
    def answer(self) -> str:
        """The word after every function, innermost first."""
        return run(self.skills, self.word)


def run(skills: Sequence[int], word: str) -> str:
    """Returns ``word`` after the functions, applied in the order given.

    Raises:
        ValueError: a function is not one of ``SKILLS``.
    """
    for skill in skills:
        if skill not in SKILLS:
            raise ValueError(f"func id must be one of {sorted(SKILLS)}, got {skill}")
        word = apply(skill, word, *SKILLS[skill])
    return word


def held_out_pairs() -> frozenset[tuple[int, int]]:
    """Returns the 6 of 36 ordered pairs (inner, outer) that no training ever shows.

    A diagonal of the 6 x 6 table: each function is held out once as the inner and once as the
    outer one, and trained five times in either place.
    """
    ids = sorted(SKILLS)
    count = len(ids)
    return frozenset((ids[i], ids[(i + 2) % count]) for i in range(count))


def compositions(data_source: str) -> list[tuple[int, ...]]:
    """Returns the compositions of a data source, sorted; inner function first.

    ``toy_single``: 6 single functions. ``toy``: 30 pairs. ``toy_held_out``: the other 6 pairs.
    ``toy_level_3``: triples whose neighbouring pairs are both among the 30. ``toy_exact``,
    ``toy_letters``, ``toy_points``: the 30 pairs in three parts of 20, 5 and 5, see ``OUTER``.
    ``toy_left``, ``toy_right``: the 30 pairs in two parts of 15, see ``DOMAINS``.

    Raises:
        ValueError: the data source is not one of ``DATA_SOURCES``.
    """
    ids, held_out = sorted(SKILLS), held_out_pairs()
    if data_source == "toy_single":
        return [(skill,) for skill in ids]
    if data_source == "toy":
        return [pair for pair in product(ids, ids) if pair not in held_out]
    parts = OUTER | DOMAINS
    if data_source in parts:
        return [pair for pair in compositions("toy") if pair[1] in parts[data_source]]
    if data_source == "toy_held_out":
        return sorted(held_out)
    if data_source == "toy_level_3":
        triples = product(ids, ids, ids)
        return [t for t in triples if not {t[:2], t[1:]} & held_out]
    raise ValueError(f"data_source must be one of {DATA_SOURCES}, got {data_source!r}")


def split_of(prompt: str) -> Split:
    """Returns the only split that may show ``prompt``; the same on every machine and run."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=4).digest()
    place = int.from_bytes(digest, "big") % 100
    if place < WARMUP_SHARE:
        return "warmup"
    return "train" if place < WARMUP_SHARE + TRAIN_SHARE else "validation"


def stream(spec: TaskSpec, data_source: str, split: Split, rng: random.Random) -> Iterator[Problem]:
    """Yields problems of one data source and split without end; may repeat.

    Left out are problems where some step yields the empty word, since it has nothing to show,
    and those whose answer is longer than ``spec.max_answer``.

    Raises:
        ValueError: unknown data source, or a data source that only validation may show.
    """
    choices = compositions(data_source)
    if split != "validation" and data_source in ("toy_held_out", "toy_level_3"):
        raise ValueError(f"{data_source} is for validation only, not for {split}")
    while True:
        skills = rng.choice(choices)
        length = rng.randint(spec.min_length, spec.max_length)
        problem = Problem(skills, "".join(rng.choices(spec.alphabet, k=length)))
        steps = [run(skills[:depth], problem.word) for depth in range(1, len(skills) + 1)]
        fits = all(steps) and len(steps[-1]) <= spec.max_answer
        if fits and split_of(problem.prompt) == split:
            yield problem


def distinct(problems: Iterator[Problem], count: int) -> list[Problem]:
    """Returns the first ``count`` different problems of a stream.

    Raises:
        ValueError: 1,000 draws in a row were repeats, so the task has too few problems.
    """
    found: dict[Problem, None] = {}
    repeats = 0
    while len(found) < count:
        problem = next(problems)
        repeats = repeats + 1 if problem in found else 0
        found[problem] = None
        if repeats == 1000:
            raise ValueError(f"asked for {count} different problems, the task has {len(found)}")
    return list(found)
