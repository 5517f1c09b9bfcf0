"""Mutates the modules of formulas and records which mutants their tests notice.

    make test-mutation
    make test-mutation MODULES="verl_ext.losses verl_ext.metrics.ess"

A module is named by the front of its name. The record is written module by module, so a run that
is stopped keeps what it has found.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mutation import record, suite
from mutation.forks import preload, pytest_in_fork, written
from mutation.mutants import Mutant, mutants
from mutation.session import Chosen, Clean, Session, fate, read_clean

MOST = 60  # mutants of a module; of larger ones a draw


def main() -> int:
    """Runs and records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("modules", nargs="*", help="beginnings of names; all without")
    parser.add_argument("--most", type=int, default=MOST, help="mutants of a module")
    parser.add_argument("--again", action="store_true", help="recorded survivors alone")
    parser.add_argument("--dry", action="store_true", help="records nothing")
    given = parser.parse_args()
    modules = suite.pure_modules()
    chosen = [
        name for name in modules if not given.modules or name.startswith(tuple(given.modules))
    ]
    if not chosen:
        parser.error(f"no module of formulas begins so: {given.modules}")
    with tempfile.TemporaryDirectory() as folder:
        suite.stage(Path(folder))
        preload(Path(folder))
        for name in chosen:
            if given.again:
                outcome = again(name, modules[name], Path(folder))
            else:
                outcome = outcome_of(name, modules[name], Path(folder), given.most)
            if not given.dry:
                record.write(name, outcome, list(modules))
    return 0


def outcome_of(module: str, source: Path, folder: Path, most: int) -> record.Outcome:
    """Runs a module's mutants."""
    made, possible = mutants(source.read_text(encoding="utf-8"), most, module)
    survivors, timeouts = run(module, folder, made, len(made))
    return record.Outcome(possible, len(made), timeouts, survivors)


def again(module: str, source: Path, folder: Path) -> record.Outcome:
    """Runs a module's recorded survivors; the killed stay killed, what is no mutant now is gone."""
    before, lived = record.read()[module], record.lived(module)
    every, possible = mutants(source.read_text(encoding="utf-8"))
    made = [each for each in every if (each.line, each.diff) in lived]
    tried = before["mutants"] - len(lived - {(each.line, each.diff) for each in made})
    survivors, timeouts = run(module, folder, made, tried)
    return record.Outcome(possible, tried, before["timeouts"] + timeouts, survivors)


def run(module: str, folder: Path, made: Sequence[Mutant], tried: int) -> tuple[list[Mutant], int]:
    """Runs mutants of those that are tried in all: survivors, and how many did not end."""
    begun = time.monotonic()
    file, most_alive = suite.staged(folder, module), (1 - record.LEAST) * tried
    tests = suite.tests_of(module)
    found = fates(suite.ROOT, file, tests, made, most_alive, suite.nearest(module, tests))
    survivors = [each for each, said in zip(made, found, strict=True) if said == "survived"]
    timeouts = found.count("timeout")
    print(
        f"{module}: {len(made) - len(survivors)} of {len(made)} killed ({timeouts} by the clock) "
        f"in {time.monotonic() - begun:.0f} s",
        flush=True,
    )
    report(survivors)
    return survivors, timeouts


def fates(
    root: Path,
    file: Path,
    tests: Sequence[Path],
    made: Sequence[Mutant],
    most_alive: float = 0.0,
    nearest: int = 1,
) -> list[str]:
    """What becomes of each mutant: what survives a test file has to face the next.

    Those after the nearest are asked only where more survive than may: what they notice is no test
    of the module.
    """
    found = ["survived"] * len(made)
    for place, path in enumerate(tests):
        alive = [index for index, said in enumerate(found) if said == "survived"]
        enough = place >= nearest and len(alive) <= most_alive
        if alive and not enough:
            said = _fates(root, file, path, [made[index] for index in alive])
            for index, each in zip(alive, said, strict=True):
                found[index] = each
    return found


def _fates(root: Path, file: Path, test: Path, made: Sequence[Mutant]) -> list[str]:
    """What becomes of each mutant in this test file.

    Raises:
        RuntimeError: a test fails without a mutant, or pytest itself does not work.
    """
    with tempfile.TemporaryDirectory() as folder:
        log, told = Path(folder, "log"), Path(folder, "report.json")
        session = Session(file, made, told)
        if pytest_in_fork(root, str(test), session, log, 36000) != 0:
            raise RuntimeError(f"{file}:\n{log.read_text(encoding='utf-8')[-4000:]}")
        said = json.loads(told.read_text(encoding="utf-8"))["fates"]
        clean = read_clean(told)
        return [
            each or _fresh(root, file, mutant, clean, log)
            for each, mutant in zip(said, made, strict=True)
        ]


def _fresh(root: Path, file: Path, mutant: Mutant, clean: Clean, log: Path) -> str:
    """The fate of a mutant whose tests are collected for it alone."""
    tests = clean.order(None)
    test_file = tests[0].split("::")[0]
    with written(file, mutant.source):
        code = pytest_in_fork(root, test_file, Chosen(tests), log, clean.limit(tests))
    if code in (3, 4):
        raise RuntimeError(f"pytest ends with {code}:\n{log.read_text(encoding='utf-8')[-4000:]}")
    return fate(code)


def report(survivors: Sequence[Mutant]) -> None:
    """Prints the survivors."""
    for each in survivors:
        print(f"  {each.line}:", *each.diff, sep="\n      ", flush=True)


if __name__ == "__main__":
    sys.exit(main())
