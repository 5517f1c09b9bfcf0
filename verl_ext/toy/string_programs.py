"""Random programs of nested string functions, and what they return.

A program is ``def main_solution(x): return ...``: an expression tree over the input ``x``, literals,
``+``, four string methods and the functions func_0 to func_24, applied to one input. Its *level* is
the depth of the tree, not the number of functions, and every branch reaches it.

What surprises in the authors' programs is the default here, with a switch where one helps:

* About 45 % of the level-1 expressions (41 % at level 2) never mention ``x``, and more once
  duplicates are dropped, since those with ``x`` are few: ``require_input``.
* About a tenth of level 1 holds no function at all, only ``+``, ``x`` and literals.
* Held-out functions have twins among the training functions (18 is 1, 8 is 19, 7 is 20), so that
  "held out" leaks: ``function_sets(avoid_twins=True)``. Function 24 differs from 9 on palindromes
  only, and stays.
* Interlacing is function 7 wherever 7 is in the set, so 20 never occurs in the first stage.
* Results may explode in length with the level: ``max_length``, the one default that is not theirs.

Source: Yuan et al., "From f(x) and g(x) to f(g(x)): LLMs Learn New Skills in RL by Composing Old
Ones", 2025, https://arxiv.org/abs/2509.25123; PRIME-RL/RL-Compositionality.

Deviations: the distribution is the authors', the stream of random numbers is not, so their files
are not reproduced row by row. Nothing here depends on PYTHONHASHSEED; their prompts do.
"""

import random
import string
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from verl_ext.reward_fns.string_composition import apply

ALL_FUNCTIONS = frozenset(range(25))
TRAIN_FUNCTIONS = frozenset({1, 3, 4, 5, 9, 11, 13, 15, 17, 19, 20, 22, 23})
EVAL_FUNCTIONS = ALL_FUNCTIONS - TRAIN_FUNCTIONS
TWINS = frozenset({7, 8, 18})
"""Held-out functions that return what a training function (20, 19, 1) returns."""

BARE = (0, 2, 3, 4, 9, 10, 12, 14, 15, 16, 17, 21, 22)
WITH_PARAMETER = (1, 5, 6, 8, 11, 13, 18, 19, 23, 24)
METHODS = ("upper", "lower", "capitalize", "swapcase")
MAX_REJECTIONS = 10_000


class TooLong(ValueError):
    """A value on the way to the result is longer than allowed."""


@dataclass(frozen=True)
class Input:
    """The program's argument ``x``."""


@dataclass(frozen=True)
class Literal:
    """A fixed string."""

    text: str


@dataclass(frozen=True)
class Concat:
    """Two expressions joined by ``+``."""

    left: "Expr"
    right: "Expr"


@dataclass(frozen=True)
class Method:
    """One of Python's own string methods."""

    name: str
    arg: "Expr"


@dataclass(frozen=True)
class Call:
    """A function of the task, on an expression; ``extra`` is its parameter, or what it interlaces."""

    func_id: int
    arg: "Expr"
    extra: "int | str | Expr | None" = None


Expr: TypeAlias = Input | Literal | Concat | Method | Call


@dataclass(frozen=True)
class Program:
    """An expression, one input, and what main_solution returns for it."""

    expr: Expr
    text: str
    output: str


@dataclass(frozen=True)
class ProgramOptions:
    """Which programs to keep; a rejected one is drawn anew.

    Attributes:
        require_input: keep programs that mention ``x``.
        unique: keep the first program of each expression, as the authors do.
        max_length: keep programs all of whose values, the intermediate ones too, have at most so
            many characters; None keeps all, as the authors do.
    """

    require_input: bool = False
    unique: bool = True
    max_length: int | None = 2048


def function_sets(*, avoid_twins: bool = False) -> dict[str, frozenset[int]]:
    """Returns the authors' split: 13 functions to train on, 12 held out, and all 25.

    Args:
        avoid_twins: take functions 7, 8 and 18 out of the held-out ones, where no interlacing is
            left then and ``+`` takes its place.
    """
    held_out = EVAL_FUNCTIONS - TWINS if avoid_twins else EVAL_FUNCTIONS
    return {"train": TRAIN_FUNCTIONS, "eval": held_out, "all": ALL_FUNCTIONS}


def random_expr(rng: random.Random, level: int, functions: Collection[int]) -> Expr:
    """Draws an expression whose every branch has the depth ``level``.

    At depth 0: half ``x``, half a literal of 3 to 6 letters. Above: 20 % binary, half of it ``+``
    and half interlacing; of the unary rest 2 % a string method, else half a function without and
    half one with a parameter.

    Args:
        rng: the source of randomness.
        level: >= 0.
        functions: ids to draw from; at least one with and one without a parameter.

    Raises:
        ValueError: the level is negative, an id unknown, or one of the two kinds missing.

    Deviations: where neither 7 nor 20 is among the functions, every binary node is ``+``; the
        authors' sets always have one.
    """
    if level < 0:
        raise ValueError(f"level must be >= 0, got {level}")
    unknown = set(functions) - ALL_FUNCTIONS
    if unknown:
        raise ValueError(f"functions must be ids 0 to 24, got {sorted(unknown, key=repr)}")
    bare = [k for k in BARE if k in functions]
    with_parameter = [k for k in WITH_PARAMETER if k in functions]
    if not bare or not with_parameter:
        raise ValueError(f"functions need one of {BARE} and one of {WITH_PARAMETER}")
    interlace = next((k for k in (7, 20) if k in functions), None)

    def draw(depth: int) -> Expr:
        if depth == 0:
            return Input() if rng.random() < 0.5 else Literal(_letters(rng, 3, 6))
        if rng.random() < 0.2:
            left, right = draw(depth - 1), draw(depth - 1)
            if rng.random() < 0.5 or interlace is None:
                return Concat(left, right)
            return Call(interlace, left, right)
        if rng.random() < 0.02:
            return Method(rng.choice(METHODS), draw(depth - 1))
        func_id = rng.choice(bare if rng.random() < 0.5 else with_parameter)
        return Call(func_id, draw(depth - 1), _parameter(rng, func_id))

    return draw(level)


def evaluate(expr: Expr, text: str, *, max_length: int | None = None) -> str:
    """Returns the expression's value at x = text.

    Raises:
        TooLong: a value, intermediate or final, has more than ``max_length`` characters.
    """

    def value(node: Expr) -> str:
        match node:
            case Input():
                result = text
            case Literal(literal):
                result = literal
            case Concat(left, right):
                result = value(left) + value(right)
            case Method(name, arg):
                result = str(getattr(value(arg), name)())
            case Call(func_id, arg, None):
                result = apply(func_id, value(arg))
            case Call(func_id, arg, extra):
                known = isinstance(extra, int | str)
                result = apply(func_id, value(arg), extra if known else value(extra))
        if max_length is not None and len(result) > max_length:
            raise TooLong(f"{len(result)} characters, at most {max_length} allowed")
        return result

    return value(expr)


def programs(
    rng: random.Random,
    level: int,
    functions: Collection[int],
    *,
    options: ProgramOptions,
    seen: set[Expr],
) -> Iterator[Program]:
    """Draws programs without end, each with an input of 3 to 10 lowercase letters.

    Args:
        rng: the source of randomness; with the same state, arguments and ``seen``, the same programs.
        level: depth of the expressions.
        functions: ids to draw from.
        options: what to keep.
        seen: expressions not to draw again if ``options.unique``; grows with each program.

    Raises:
        ValueError: 10,000 draws in a row were rejected, so the level's programs are used up.
    """
    rejections = 0
    while True:
        expr, text = random_expr(rng, level, functions), _letters(rng, 3, 10)
        output = _accepted(expr, text, options, seen)
        if output is not None:
            rejections = 0
            seen.add(expr)
            yield Program(expr, text, output)
            continue
        rejections += 1
        if rejections >= MAX_REJECTIONS:
            raise ValueError(
                f"no new program at level {level} in {rejections} draws under {options}; "
                "ask for fewer rows, another level, or set unique=False"
            )


def _accepted(expr: Expr, text: str, options: ProgramOptions, seen: set[Expr]) -> str | None:
    if options.unique and expr in seen:
        return None
    if options.require_input and Input() not in nodes(expr):
        return None
    try:
        return evaluate(expr, text, max_length=options.max_length)
    except TooLong:
        return None


def nodes(expr: Expr) -> Iterator[Expr]:
    """Yields the expression and all expressions inside, left to right."""
    yield expr
    match expr:
        case Concat(left, right):
            children: tuple[object, ...] = (left, right)
        case Method(_, arg):
            children = (arg,)
        case Call(_, arg, extra):
            children = (arg, extra)
        case _:
            children = ()
    for child in children:
        if isinstance(child, Expr):
            yield from nodes(child)


def depth(expr: Expr) -> int:
    """Returns the depth of the tree; 0 for ``x`` and literals."""
    children = [node for node in nodes(expr) if node is not expr]
    return 1 + max(map(depth, children)) if children else 0


def _letters(rng: random.Random, shortest: int, longest: int) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(shortest, longest)))


def _parameter(rng: random.Random, func_id: int) -> int | str | None:
    if func_id in (1, 18):
        return rng.randint(2, 4)
    if func_id in (8, 19, 23, 24):
        return rng.randint(1, 3)
    if func_id == 11:
        return rng.randint(1, 5)
    if func_id in (5, 6):
        return _letters(rng, 2, 4)
    return rng.choice("-_|") if func_id == 13 else None
