"""The mutants of a source file: mutmut's operators, and four of ours, where behaviour is decided.

mutmut's own runner does not fit: it leaves decorated functions (ours bear ``@torch.no_grad()``)
and module constants alone, names functions by their path in the checkout, which is not the name
they are imported by, and mutates the text of ``raise``. Its operators are used as they are, but for
three kinds that tests kill by breaking rather than by noticing: ``x = None``, an argument replaced
by None, a string's case.
"""

import dataclasses
import difflib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators

NAMES = {"min": "max", "amin": "amax", "any": "all", "floor": "ceil", "argmin": "argmax"}
SWAPS = NAMES | {after: before for before, after in NAMES.items()}
READERS = m.Name("warnings") | m.Name("logger") | m.Name("logging") | m.Name("bar")
SHOWN = m.Call(func=m.Attribute(value=READERS) | m.Name("tqdm"))  # to a person alone
TYPING = m.Name("TypeVar") | m.Name("NewType") | m.Name("cast") | m.Name("namedtuple")
# Code that decides nothing: types, text of errors and logs, what only a reader sees.
SKIPPED = (
    m.Annotation()
    | m.Decorator()
    | m.Raise()
    | m.Import()
    | m.ImportFrom()
    | m.Expr(value=m.SimpleString() | m.ConcatenatedString())
    | m.If(test=m.Name("TYPE_CHECKING"))
    | m.FunctionDef(decorators=[m.Decorator(m.Name("overload"))])
    | SHOWN
    | m.Expr(SHOWN)
    | m.Call(func=TYPING)
    | m.Assign(targets=[m.AssignTarget(m.Name("__all__") | m.Name("__slots__"))])
    | m.Subscript(
        value=m.Name(value=m.MatchIfTrue(lambda name: name[:1].isupper() and name != "N"))
    )
)
# A guard of what an earlier check has refused; the tests have one device, the CPU.
KEPT_ARGUMENT = m.Arg(keyword=m.Name("strict") | m.Name("device"))
# Its strings are advice, for the text of an error.
CHECK = m.Call(func=m.Name(m.MatchIfTrue(lambda name: name.lstrip("_").startswith("require"))))
# Its number is changed, and not its sign: of two axes, -1 and 1 are the same.
AXIS = m.UnaryOperation(m.Minus(), m.Integer())
UNTOUCHED_CALLS = m.Call(func=m.Name("len") | m.Name("isinstance"))


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of a source.

    Attributes:
        line: where it is.
        diff: the lines it takes away and puts in their place.
        source: the whole file with it.
        function: first and last line of the function around it, None in code of the module itself.
    """

    line: int
    diff: tuple[str, ...]
    source: str
    function: tuple[int, int] | None


def dropped_arguments(node: cst.Call) -> Iterator[cst.CSTNode]:
    """A call without one of its arguments."""
    if len(node.args) > 1 and not m.matches(node, UNTOUCHED_CALLS):
        for index, argument in enumerate(node.args):
            if m.matches(argument, KEPT_ARGUMENT):
                continue
            yield node.with_changes(args=[*node.args[:index], *node.args[index + 1 :]])


def marked_string(node: cst.BaseString) -> Iterator[cst.CSTNode]:
    """A string with a mark at both ends."""
    yield from list(mutators.operator_string(node))[:1]


def left_out_branch(node: cst.If) -> Iterator[cst.CSTNode]:
    """A condition that never holds."""
    yield node.with_changes(test=cst.Name("False"))


def kept_item(node: cst.CompIf) -> Iterator[cst.CSTNode]:
    """A comprehension that leaves nothing out."""
    yield node.with_changes(test=cst.Name("True"))


def left_out_call(node: cst.Expr) -> Iterator[cst.CSTNode]:
    """A statement that is a call, left out."""
    if isinstance(node.value, cst.Call):
        yield cst.Pass()


def other_function(node: cst.Call) -> Iterator[cst.CSTNode]:
    """``min`` for ``max`` and the like, ``x`` for ``x.detach()``."""
    function = node.func
    if isinstance(function, cst.Name) and function.value in SWAPS:
        yield node.with_changes(func=cst.Name(SWAPS[function.value]))
    elif isinstance(function, cst.Attribute):
        if function.attr.value in SWAPS:
            yield node.with_deep_changes(function.attr, value=SWAPS[function.attr.value])
        if function.attr.value == "detach":
            yield function.value


Operator = tuple[type[cst.CSTNode], Callable[[Any], Any]]
REPLACED = (mutators.operator_assignment, mutators.operator_arg_removal, mutators.operator_string)
OPERATORS: Sequence[Operator] = [
    *(each for each in mutators.mutation_operators if each[1] not in REPLACED),
    (cst.Call, dropped_arguments),
    (cst.Call, other_function),
    (cst.BaseString, marked_string),
    (cst.If, left_out_branch),
    (cst.CompIf, kept_item),
    (cst.Expr, left_out_call),
]


class _Places(cst.CSTVisitor):
    """Every node and what may stand in its place, with the function around it."""

    def __init__(self, positions: Any) -> None:
        self.positions = positions
        self.functions: list[cst.FunctionDef] = []
        self.advice: set[cst.CSTNode] = set()
        self.found: list[tuple[cst.CSTNode, cst.CSTNode, cst.FunctionDef | None]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if m.matches(node, SKIPPED) or m.matches(node, KEPT_ARGUMENT) or node in self.advice:
            return False
        if m.matches(node, CHECK):
            self.advice |= {each.value for each in m.findall(node, m.Arg(m.SimpleString()))}
        around = self.functions[-1] if self.functions else None
        for kind, operator in OPERATORS:
            axis = operator is mutators.operator_swap_op and m.matches(node, AXIS)
            if isinstance(node, kind) and not axis:
                self.found += [(node, other, around) for other in operator(node)]
        if isinstance(node, cst.FunctionDef):
            self.functions.append(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if self.functions and self.functions[-1] is original_node:
            self.functions.pop()


def mutants(source: str, most: int | None = None, seed: str = "") -> tuple[list[Mutant], int]:
    """The mutants of a source, or some of them, and how many there are.

    Args:
        source: of a module.
        most: how many to draw, None for all.
        seed: of the draw.
    """
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    positions = wrapper.resolve(PositionProvider)
    places = _Places(positions)
    wrapper.module.visit(places)
    made = []
    chosen = list(places.found)
    random.Random(seed).shuffle(chosen)
    for node, other, around in chosen if most is None else chosen[: most * 2]:
        changed = str(wrapper.module.deep_replace(node, other).code)
        if _compiles(changed) and (most is None or len(made) < most):
            function = None
            if around is not None and not _in_header(positions, node, around):
                first = around.decorators[0] if around.decorators else around
                function = positions[first].start.line, positions[around].end.line
            line = positions[node].start.line
            made.append(Mutant(line, _diff(source, changed), changed, function))
    return sorted(made, key=lambda each: each.line), len(places.found)


def _in_header(positions: Any, node: cst.CSTNode, function: cst.FunctionDef) -> bool:
    """Whether a node is a default value, computed when the module is imported."""
    return bool(positions[node].start.line < positions[function.body].start.line)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _diff(before: str, after: str) -> tuple[str, ...]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return tuple(f"{each[0]} {each[1:].strip()}" for each in list(lines)[2:] if each[0] in "+-")
