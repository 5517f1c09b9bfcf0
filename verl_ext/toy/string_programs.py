"""Random programs of nested string functions.

A program is ``def main_solution(x): return ...``: an expression tree applied to one input. Its
*level* is the depth of the tree, not the number of functions, and every branch reaches it.

What surprises in the authors' programs is the default here, with a switch where one helps:

* 45 % of the level-1 draws (40 % at level 2) never mention ``x``. Since duplicates are dropped and
  expressions with ``x`` run out first, it is 78 % (57 %) of a file of 25,000 rows per level:
  ``require_input``, or ``unique=False``.
* About a tenth of level 1 holds no function at all, only ``+``, ``x``, literals and methods.
* Held-out functions have twins among the training functions (18 is 1, 8 is 19, 7 is 20), so that
  "held out" leaks: ``function_sets(avoid_twins=True)``. Function 24 differs from 9 on palindromes
  only, and stays.
* Interlacing is function 7 wherever 7 is in the set, so 20 never occurs in the first stage.
* Results grow with the level (training functions at level 8: median 156 characters, the longest of
  4,000 above 5,000): ``max_length``, the one default that is not theirs. Of 4,000 draws it rejects
  none up to level 5, and 0.7 % at level 8.

Source: Yuan et al., "From f(x) and g(x) to f(g(x)): LLMs Learn New Skills in RL by Composing Old
Ones", 2025, https://arxiv.org/abs/2509.25123; PRIME-RL/RL-Compositionality.

Deviations: the distribution is the authors', the stream of random numbers is not, so their files
are not reproduced row by row. Nothing here depends on PYTHONHASHSEED; their prompts do.
"""

import random
import string
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from verl_ext.toy.string_expressions import (
    Call,
    Concat,
    Expr,
    Input,
    Interlace,
    Literal,
    Method,
    TooLong,
    evaluate,
    nodes,
)

ALL_FUNCTIONS = frozenset(range(25))
TRAIN_FUNCTIONS = frozenset({1, 3, 4, 5, 9, 11, 13, 15, 17, 19, 20, 22, 23})
EVAL_FUNCTIONS = ALL_FUNCTIONS - TRAIN_FUNCTIONS
TWINS = frozenset({7, 8, 18})
"""Held-out functions that return what a training function (20, 19, 1) returns."""

BARE = (0, 2, 3, 4, 9, 10, 12, 14, 15, 16, 17, 21, 22)
WITH_PARAMETER = (1, 5, 6, 8, 11, 13, 18, 19, 23, 24)
METHODS = ("upper", "lower", "capitalize", "swapcase")
MAX_REJECTIONS = 10_000


@dataclass(frozen=True)
class Program:
    """An expression, one input, and what main_solution returns for it."""

    expr: Expr
    text: str
    output: str

    @property
    def problem(self) -> tuple[Expr, str | None]:
        """What makes two programs the same question: the expression, and the input it uses."""
        return self.expr, self.text if Input() in nodes(self.expr) else None


@dataclass(frozen=True)
class ProgramOptions:
    """Which programs to keep; a rejected one is drawn anew.

    Attributes:
        require_input: keep programs that mention ``x``.
        unique: keep the first program of each expression, as the authors do.
        max_length: keep programs all of whose values, the intermediate ones too, have at most so
            many characters; None keeps all, as the authors do.

    Raises:
        ValueError: max_length is below 1.
    """

    require_input: bool = False
    unique: bool = True
    max_length: int | None = 2048

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be >= 1 or None, got {self.max_length}")


def function_sets(*, avoid_twins: bool = False) -> dict[str, frozenset[int]]:
    """Returns the authors' split: 13 functions to "train" on, 12 held out ("eval"), "all" 25.

    Args:
        avoid_twins: take functions 7, 8 and 18 out of the held-out ones. No interlacing is left
            among these then, and ``+`` takes its place.
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
    if not set(BARE) & set(functions) or not set(WITH_PARAMETER) & set(functions):
        raise ValueError(f"functions need one of {BARE} and one of {WITH_PARAMETER}")
    return _draw(rng, level, functions)


def _draw(rng: random.Random, level: int, functions: Collection[int]) -> Expr:
    if level == 0:
        return Input() if rng.random() < 0.5 else Literal(_letters(rng, 3, 6))
    if rng.random() < 0.2:
        left, right = _draw(rng, level - 1, functions), _draw(rng, level - 1, functions)
        func_id = next((k for k in (7, 20) if k in functions), None)
        if rng.random() < 0.5 or func_id is None:
            return Concat(left, right)
        return Interlace(func_id, left, right)
    if rng.random() < 0.02:
        return Method(rng.choice(METHODS), _draw(rng, level - 1, functions))
    pool = BARE if rng.random() < 0.5 else WITH_PARAMETER
    func_id = rng.choice([k for k in pool if k in functions])
    return Call(func_id, _draw(rng, level - 1, functions), _params(rng, func_id))


def _params(rng: random.Random, func_id: int) -> tuple[int | str, ...]:
    if func_id in (1, 18):
        return (rng.randint(2, 4),)
    if func_id in (8, 19, 23, 24):
        return (rng.randint(1, 3),)
    if func_id == 11:
        return (rng.randint(1, 5),)
    if func_id in (5, 6):
        return (_letters(rng, 2, 4),)
    return (rng.choice("-_|"),) if func_id == 13 else ()


def _letters(rng: random.Random, shortest: int, longest: int) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(shortest, longest)))


def programs(
    rng: random.Random,
    level: int,
    functions: Collection[int],
    *,
    options: ProgramOptions,
    taken: Collection[tuple[Expr, str | None]] = frozenset(),
) -> Iterator[Program]:
    """Draws programs without end, each with an input of 3 to 10 lowercase letters.

    Args:
        rng: the source of randomness; its state and the other arguments fix the programs.
        level: depth of the expressions.
        functions: ids to draw from.
        options: what to keep.
        taken: problems not to draw, such as those of the validation set.

    Raises:
        ValueError: as :func:`random_expr`; or 10,000 draws in a row were rejected, so that the
            level's programs are as good as used up.
    """
    seen: set[Expr] = set()
    rejections = 0
    while rejections < MAX_REJECTIONS:
        expr, text = random_expr(rng, level, functions), _letters(rng, 3, 10)
        output = None if options.unique and expr in seen else _output(expr, text, options)
        program = Program(expr, text, output or "")
        if output is None or program.problem in taken:
            rejections += 1
            continue
        rejections = 0
        seen.add(expr)
        yield program
    raise ValueError(
        f"no new program at level {level} in {rejections} draws under {options}; "
        "ask for fewer rows, another level, unique=False or a larger max_length"
    )


def _output(expr: Expr, text: str, options: ProgramOptions) -> str | None:
    """Returns the program's result, None where the options reject the program."""
    if options.require_input and Input() not in nodes(expr):
        return None
    try:
        return evaluate(expr, text, max_length=options.max_length)
    except TooLong:
        return None
