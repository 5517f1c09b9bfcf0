"""One collection of a module's tests, and a fork for every mutant of a function.

The fork puts the mutant's code into the functions that have been imported (``__code__``), so
nothing is imported or collected again. The mutant lies in the staged copy too, for processes that a
test starts. What cannot be replaced so is left to a run with an import of its own.
"""

import ast
import builtins
import dataclasses
import gc
import json
import signal
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
from mutation.forks import BROKEN, forked, written
from mutation.mutants import Mutant

FACTOR, OWN = 5.0, 3.0  # a test may take so many times its clean time, and seconds
LEAST = 30.0  # and all of a mutant's tests so many more
NOT_SO = 77  # exit code: the functions cannot be replaced
TOLD = "_mutation_told"
Key = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Clean:
    """What a run without a mutant showed.

    Attributes:
        seconds: test -> how long it takes.
        lines: test -> first lines of the code that it called in the module.
        early: first lines of what was called while the tests were imported.
    """

    seconds: dict[str, float]
    lines: dict[str, set[int]]
    early: set[int]

    def order(self, function: tuple[int, int] | None) -> list[str]:
        """The tests that call a function, the quickest first; of the module itself, all."""
        near = [
            test
            for test, lines in self.lines.items()
            if function is None or within(lines, function)
        ]
        return sorted(near, key=self.seconds.__getitem__)

    def limit(self, tests: Iterable[str]) -> float:
        """How long these may take under a mutant."""
        return LEAST + FACTOR * sum(self.seconds[test] for test in tests)


def within(lines: set[int], function: tuple[int, int]) -> bool:
    """Whether one of the lines is in the function."""
    return any(function[0] <= line <= function[1] for line in lines)


class Session:
    """Plugin of pytest: in the place of the tests, a clean run of them and one for each mutant.

    Args:
        file: the module in the staged copy.
        mutants: of it.
        report: where fates and clean run are written.
    """

    def __init__(self, file: Path, mutants: Sequence[Mutant], report: Path) -> None:
        self.file, self.mutants, self.report = file, mutants, report
        self.called: set[int] = set()
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, set[int]] = {}
        self.shared: dict[str, set[int]] = {}  # by fixtures: every test of the file may see it

    def pytest_sessionstart(self) -> None:
        """Sees what is called while the tests are imported."""
        sys.settrace(self._trace)

    def _trace(self, frame: Any, event: str, arg: Any) -> None:
        if frame.f_code.co_filename == str(self.file):
            self.called.add(frame.f_code.co_firstlineno)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":
            self.seconds[report.nodeid] = report.duration
            self.lines[report.nodeid] = set(self.called)
        else:
            self.shared.setdefault(report.nodeid.split("::")[0], set()).update(self.called)
        self.called.clear()

    def pytest_runtestloop(self, session: Any) -> bool:
        """Runs the tests once, and once for every mutant."""
        few_examples(session.items)
        sys.settrace(None)
        early = set(self.called)
        self.called.clear()
        functions = list(_functions(self.file))
        gc.collect()
        gc.freeze()
        if forked(lambda: self._clean(session.items, early, functions), 3600) != 0:
            raise RuntimeError("the tests fail without a mutant")
        clean = read_clean(self.report)
        fates = [self._fate(session.items, clean, mutant, functions) for mutant in self.mutants]
        found = json.loads(self.report.read_text(encoding="utf-8"))
        self.report.write_text(json.dumps({**found, "fates": fates}), encoding="utf-8")
        return True

    def _clean(self, items: Sequence[Any], early: set[int], functions: Sequence[Any]) -> int:
        """Runs the tests with functions that say when they are called: a trace is far slower."""
        vars(builtins)[TOLD] = self.called.add
        put_in(telling(self.file.read_text(encoding="utf-8")), self.file, functions)
        code = run(items)
        for test, lines in self.lines.items():
            lines |= self.shared.get(test.split("::")[0], set())
        lines = {test: sorted(each) for test, each in self.lines.items()}
        found = {"seconds": self.seconds, "lines": lines, "early": sorted(early)}
        self.report.write_text(json.dumps(found), encoding="utf-8")
        return code

    def _fate(
        self, items: Sequence[Any], clean: Clean, mutant: Mutant, functions: Sequence[Any]
    ) -> str | None:
        """``killed``, ``timeout`` or ``survived``; None for a mutant that has to be imported."""
        if mutant.function is None or within(clean.early, mutant.function):
            return None
        if not clean.order(mutant.function):
            return "survived"
        rank = {test: index for index, test in enumerate(clean.order(mutant.function))}
        ordered = sorted(
            (each for each in items if each.nodeid in rank), key=lambda item: rank[item.nodeid]
        )

        def work() -> int:
            if not put_in(mutant.source, self.file, functions):
                return NOT_SO
            return run(ordered, clean.seconds)

        with written(self.file, mutant.source):
            code = forked(work, clean.limit(rank))
        return None if code == NOT_SO else fate(code)


def fate(code: int | None) -> str:
    """What the exit code of a mutant's run says."""
    if code == BROKEN:
        raise RuntimeError("the fork of a mutant broke")
    return {None: "timeout", -signal.SIGPROF: "timeout", 0: "survived"}.get(code, "killed")


def run(items: Sequence[Any], seconds: Mapping[str, float] | None = None) -> int:
    """Runs tests until one fails: 1 if one does.

    Args:
        items: the tests.
        seconds: what each took without a mutant. A signal ends the process where one takes so much
            of the processor that it must be in a loop; of the clock a busy machine takes more.
    """
    for item, later in zip(items, [*items[1:], None], strict=True):
        if seconds is not None:
            signal.setitimer(signal.ITIMER_PROF, OWN + FACTOR * seconds[item.nodeid])
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=later)
        if item.session.testsfailed:
            return 1
    return 0


def few_examples(items: Iterable[Any]) -> None:
    """Lets no property have more examples than the profile, whatever its test says.

    Hypothesis keeps a test's settings where only its own pytest plugin looks.
    """
    most = hypothesis.settings.default.max_examples
    for item in items:
        own = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
        if own is not None and own.max_examples > most:
            fewer = hypothesis.settings(own, max_examples=most)
            getattr(item.obj, "__func__", item.obj)._hypothesis_internal_use_settings = fewer


def read_clean(report: Path) -> Clean:
    """The clean run of a report."""
    found = json.loads(report.read_text(encoding="utf-8"))
    lines = {test: set(lines) for test, lines in found["lines"].items()}
    return Clean(found["seconds"], lines, set(found["early"]))


def telling(source: str) -> ast.Module:
    """A module whose functions tell the first line of their code when they are called."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min(each.lineno for each in (*node.decorator_list, node))
            call = ast.parse(f"{TOLD}({first})").body[0]
            node.body.insert(0, ast.copy_location(call, node.body[0]))
    return ast.fix_missing_locations(tree)


def put_in(source: str | ast.Module, file: Path, functions: Sequence[types.FunctionType]) -> bool:
    """Gives the functions of a module the code that its changed source has for them."""
    codes = dict(_codes(compile(source, str(file), "exec")))
    done = False
    for function in functions:
        code = codes.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
        if code is None or code == function.__code__:
            continue
        if code.co_freevars != function.__code__.co_freevars:
            return False
        function.__code__ = code
        done = True
    return done


def _codes(code: types.CodeType) -> Iterator[tuple[Key, types.CodeType]]:
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield (each.co_qualname, each.co_firstlineno), each
            yield from _codes(each)


def _functions(file: Path) -> Iterator[types.FunctionType]:
    gc.unfreeze()  # frozen objects are not listed
    for each in gc.get_objects():
        if type(each) is types.FunctionType and each.__code__.co_filename == str(file):
            yield each
    gc.freeze()


class Chosen:
    """Plugin of a mutant's own run: these tests, in this order.

    Args:
        tests: their ids.
    """

    def __init__(self, tests: Sequence[str]) -> None:
        self.rank = {test: index for index, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leaves the others out."""
        items[:] = [each for each in items if each.nodeid in self.rank]
        items.sort(key=lambda item: self.rank[item.nodeid])
        few_examples(items)
