"""The mutation tool on a module of three lines, and the record of its runs."""

import json
import os
import subprocess
import sys

import pytest
from mutation import record, suite

pytest.importorskip("mutmut", reason="pip install 'verl-ext[dev]'")
from mutation.mutants import mutants

SOURCE = '''"""A module."""

LIMIT = 5


def middle(low, high):
    """The middle of two numbers, at most 5."""
    if low > high:
        raise ValueError("low is 1 too many" + str(2 + 3))
    return min(low + (high - low) / 2, LIMIT)
'''
TEST = """
import tiny

def test_the_middle_of_two_numbers():
    assert tiny.middle(1, 3) == 2.0

def test_it_has_a_limit():
    assert tiny.middle(8, 8) == 5
"""
RUN = """
import json, pathlib, sys
from mutation import forks
from mutation.__main__ import fates
from mutation.mutants import mutants

root = pathlib.Path(sys.argv[1])
forks.preload(root, ["pytest"])
file, test = root / "tiny.py", root / "test_tiny.py"
made, _ = mutants(file.read_text())
found = fates(root, file, [test], made)
print(json.dumps([[list(each.diff), said] for each, said in zip(made, found)]))
"""


def fates_of(tmp_path, test):
    (tmp_path / "tiny.py").write_text(SOURCE)
    (tmp_path / "test_tiny.py").write_text(test)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(suite.ROOT / "tests")},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "tiny.py").read_text() == SOURCE
    return done


def test_what_a_test_notices_is_killed_and_what_none_notices_survives(tmp_path):
    done = fates_of(tmp_path, TEST)
    assert done.returncode == 0, done.stderr
    fates = {diff[1]: said for diff, said in json.loads(done.stdout)}
    assert fates["+ return min(low - (high - low) / 2, LIMIT)"] == "killed"
    assert fates["+ return max(low + (high - low) / 2, LIMIT)"] == "killed"
    assert fates["+ LIMIT = 6"] == "killed"  # of the module itself: imported anew
    assert fates["+ if False:"] == "survived"  # no test has low > high
    assert fates["+ if low >= high:"] == "killed"


def test_tests_that_fail_without_a_mutant_are_an_error(tmp_path):
    done = fates_of(tmp_path, TEST.replace("== 5", "== 6"))
    assert done.returncode != 0
    assert "the tests fail without a mutant" in done.stderr


def test_texts_types_and_errors_are_left_alone():
    made, possible = mutants(SOURCE)
    assert len(made) == possible
    assert {each.line for each in made} == {3, 8, 10}
    typed = (
        'A: int = 1\n\n\ndef f(x: "Float[T, 3]" = A) -> "N 2":\n    """Adds 1."""\n    return x\n'
    )
    assert {each.diff[1] for each in mutants(typed)[0]} == {"+ A: int = 2"}


def test_a_draw_is_the_same_every_time():
    drawn, possible = mutants(SOURCE, 3, "a")
    assert [each.diff for each in drawn] == [each.diff for each in mutants(SOURCE, 3, "a")[0]]
    assert len(drawn) == 3 < possible


def test_every_module_of_formulas_is_in_the_record_and_no_other():
    assert set(record.read()) == set(suite.pure_modules())


@pytest.mark.parametrize("module", record.read())
def test_nine_of_ten_mutants_are_killed_and_a_survivor_has_a_reason(module):
    entry = record.read()[module]
    assert entry["killed"] + len(entry["survivors"]) == entry["mutants"] > 0
    assert entry["killed"] >= record.LEAST * entry["mutants"]
    for survivor in entry["survivors"]:
        assert survivor["why"], survivor["diff"]


def test_a_reason_is_kept_while_its_survivor_is_the_same():
    old = {"survivors": [{"line": 3, "diff": ["- LIMIT = 5", "+ LIMIT = 6"], "why": "because"}]}
    again = [each for each in mutants("\n" + SOURCE)[0] if each.diff[1] == "+ LIMIT = 6"]
    entry = record.entry(record.Outcome(9, 9, 0, again), record.whys(old))
    assert entry["survivors"] == [{**old["survivors"][0], "line": 4}]
    assert entry["killed"] == 8


def test_of_survivors_run_again_the_killed_and_those_that_are_gone_are_told_apart(
    monkeypatch, tmp_path
):
    from mutation import __main__ as tool

    (tmp_path / "tiny.py").write_text(SOURCE)
    made = mutants(SOURCE)[0][:3]
    survivors = [{"line": each.line, "diff": list(each.diff)} for each in made]
    gone = {"line": 99, "diff": ["- a", "+ b"]}
    entry = {"mutants": 10, "timeouts": 1, "survivors": [*survivors, gone]}
    monkeypatch.setattr(record, "RECORD", tmp_path / "record.json")
    record.RECORD.write_text(json.dumps({"tiny": entry}))
    monkeypatch.setattr(suite, "tests_of", lambda module: [])
    monkeypatch.setattr(tool, "fates", lambda *_: ["killed", "survived", "timeout"])
    outcome = tool.again("tiny", tmp_path / "tiny.py", tmp_path)
    assert (outcome.tried, outcome.timeouts) == (9, 2)
    assert outcome.survivors == [made[1]]


def test_all_files_of_a_subject_face_the_mutants_before_they_may_live():
    module = "verl_ext.reward_fns.tournament"
    tests = suite.tests_of(module)
    subject = [path for path in tests if path.name.startswith("test_tournament")]
    assert len(subject) > 1
    assert suite.nearest(module, tests) == len(subject) < len(tests)
