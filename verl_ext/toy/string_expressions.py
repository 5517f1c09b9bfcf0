"""Expressions over strings: the tree, its value, its text.

An expression is built from the input ``x``, literals, ``+``, Python's string methods and the 25
functions of the string task.

Source: PRIME-RL/RL-Compositionality.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from verl_ext.reward_fns.string_composition import apply


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
    """A function of one expression and at most one fixed parameter."""

    func_id: int
    arg: "Expr"
    params: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class Interlace:
    """A function of two expressions: 7 or 20."""

    func_id: int
    left: "Expr"
    right: "Expr"


Expr: TypeAlias = Input | Literal | Concat | Method | Call | Interlace


def children(expr: Expr) -> tuple[Expr, ...]:
    """Returns the expressions directly inside, left to right."""
    match expr:
        case Concat(left, right) | Interlace(_, left, right):
            return (left, right)
        case Method(_, arg) | Call(_, arg, _):
            return (arg,)
    return ()


def nodes(expr: Expr) -> Iterator[Expr]:
    """Yields the expression and all expressions inside."""
    yield expr
    for child in children(expr):
        yield from nodes(child)


def depth(expr: Expr) -> int:
    """Returns the depth of the tree; 0 for ``x`` and literals."""
    return max((1 + depth(child) for child in children(expr)), default=0)


def function_ids(expr: Expr) -> set[int]:
    """Returns the ids of the functions that occur."""
    return {node.func_id for node in nodes(expr) if isinstance(node, Call | Interlace)}


def evaluate(expr: Expr, text: str, *, max_length: int | None = None) -> str:
    """Returns the expression's value at x = text.

    Args:
        expr: the expression.
        text: the input.
        max_length: in characters; None for no limit.

    Raises:
        TooLong: a value, intermediate or final, has more than ``max_length`` characters.
    """
    values = [evaluate(child, text, max_length=max_length) for child in children(expr)]
    result = _value(expr, text, values)
    if max_length is not None and len(result) > max_length:
        raise TooLong(f"a value of {len(result)} characters, at most {max_length} are allowed")
    return result


def _value(expr: Expr, text: str, values: list[str]) -> str:
    match expr:
        case Input():
            return text
        case Literal(literal):
            return literal
        case Concat():
            return values[0] + values[1]
        case Method(name, _):
            return str(getattr(values[0], name)())
        case Call(func_id, _, params):
            return apply(func_id, values[0], *params)
        case Interlace(func_id, _, _):
            return apply(func_id, *values)


def source(expr: Expr) -> str:
    """Returns the expression as Python text."""
    inner = [source(child) for child in children(expr)]
    match expr:
        case Input():
            return "x"
        case Literal(literal):
            return repr(literal)
        case Concat():
            return f"({inner[0]} + {inner[1]})"
        case Method(name, _):
            return f"({inner[0]}).{name}()"
        case Call(func_id, _, params):
            return f"func_{func_id}({', '.join([*inner, *map(repr, params)])})"
        case Interlace(func_id, _, _):
            return f"func_{func_id}({inner[0]}, {inner[1]})"
