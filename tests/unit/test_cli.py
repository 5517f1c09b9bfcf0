"""The command ``verl-ext``: list, plot, and what it says when it cannot."""

import json
import subprocess
import sys

import pytest

from verl_ext import overlays
from verl_ext.catalog import ADVANTAGES, MASKS
from verl_ext.cli import list as list_command
from verl_ext.cli import main as command
from verl_ext.papers import PAPERS


def run(*arguments):
    return command.main(list(arguments))


@pytest.fixture
def run_dir(tmp_path):
    records = [
        {"step": 0, "data": {"verl_ext/val/toy/pass@1": 0.25, "verl_ext/val/toy/pass@2": 0.5}},
        {"step": 1, "data": {"critic/rewards/mean": 0.25, "actor/entropy": 1.0}},
        {"step": 2, "data": {"critic/rewards/mean": 0.5, "actor/entropy": 0.5,
                             "verl_ext/val/toy/pass@1": 0.5, "verl_ext/val/toy/pass@2": 0.75,
                             "verl_ext/task/toy/advantage_share": 1.0}},
    ]  # fmt: skip
    folder = tmp_path / "my_run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    return folder


def test_list_prints_every_entry_of_the_catalog_with_its_line(capsys):
    assert run("list") == 0
    text = capsys.readouterr().out
    printed = {line.strip() for line in text.splitlines()}
    for name, entry in {**PAPERS, **ADVANTAGES, **MASKS}.items():
        assert name in text
        assert any(line.startswith("type") and line.endswith(entry.line) for line in printed)
        assert entry.url in text


def test_list_prints_every_overlay_and_plugin_field(capsys):
    run("list")
    text = " ".join(capsys.readouterr().out.split())
    for group in overlays.GROUPS:
        assert all(name in text for name in overlays.names(group))
    for entry in (*PAPERS.values(), *ADVANTAGES.values(), *MASKS.values()):
        assert entry.summary in text
        assert entry.title in text
        assert entry.requires in text


def test_list_fits_100_columns_but_for_lines_to_type():
    for line in list_command.lines():
        assert len(line) <= 100 or line.strip().startswith("type")


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as stopped:
        run("plt")
    assert stopped.value.code == 2
    assert "did you mean 'plot'" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--help")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in command.COMMANDS)


def test_no_command_at_all_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(name, "--help")
    assert stopped.value.code == 0
    assert name in capsys.readouterr().out


def test_plot_writes_the_picture_into_the_runs_directory(run_dir, capsys):
    assert run("plot", str(run_dir)) == 0
    text = capsys.readouterr().out
    assert (run_dir / "run.png").exists()
    assert str(run_dir / "run.png") in text
    assert "response_length/mean" in text  # missing, and said


def test_plot_writes_where_it_is_told(run_dir, tmp_path):
    assert run("plot", str(run_dir), "--out", str(tmp_path / "x.png")) == 0
    assert (tmp_path / "x.png").exists()
    assert not (run_dir / "run.png").exists()


PICTURES = {
    "--compare": "draw_comparison",
    "--curves": "draw_curves",
    "--tasks": "draw_tasks",
}


@pytest.mark.parametrize("option", PICTURES)
def test_several_runs_are_labelled_as_told(option, run_dir, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        f"verl_ext.plotting.{PICTURES[option]}",
        lambda logs, labels, path: seen.update(count=len(logs), labels=labels, path=path),
    )
    out = tmp_path / "c.png"
    options = (option, "--labels", "a", "b", "--out", str(out))
    assert run("plot", str(run_dir), str(run_dir), *options) == 0
    assert seen == {"count": 2, "labels": ["a", "b"], "path": out}


@pytest.mark.parametrize("option", PICTURES)
def test_several_runs_are_named_by_their_directories(option, run_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(
        f"verl_ext.plotting.{PICTURES[option]}", lambda logs, labels, path: seen.append(labels)
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_bytes((run_dir / "metrics.jsonl").read_bytes())
    assert run("plot", str(run_dir), str(other), option) == 0
    assert seen == [["my_run", "other"]]


@pytest.mark.parametrize(
    ("option", "name"),
    [("--compare", "comparison.png"), ("--curves", "curves.png"), ("--tasks", "tasks.png")],
)
def test_several_runs_are_drawn_where_one_stands(
    option, name, run_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run("plot", str(run_dir), str(run_dir), option, "--labels", "a", "b") == 0
    assert [path.name for path in tmp_path.glob("*.png")] == [name]
    assert f"picture: {name}" in capsys.readouterr().out


def test_the_tasks_of_one_run_are_drawn_too(run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("plot", str(run_dir), "--tasks") == 0
    assert [path.name for path in tmp_path.glob("*.png")] == ["tasks.png"]
    assert "picture: tasks.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}/nowhere"], "no such run directory"),
        (["{run}", "{run}"], "add --compare"),
        (["{run}", "--labels", "a"], "add --compare"),
        (["{run}", "{run}", "--compare", "--labels", "a"], "one for each run"),
        (["{run}", "--compare", "--title", "a"], "use --labels with --compare"),
        (["{run}", "{run}"], "--curves or --tasks, or name one"),
        (["{run}", "--labels", "a"], "--curves or --tasks, or use --title"),
        (["{run}", "{run}", "--curves", "--labels", "a"], "one for each run"),
        (["{run}", "{run}", "--curves", "--title", "a"], "use --labels with --curves"),
        (["{run}", "{run}", "--curves", "--compare"], "name one of them"),
        (["{run}", "{run}", "--tasks", "--labels", "a"], "one for each run"),
        (["{run}", "--tasks", "--title", "a"], "use --labels with --tasks"),
        (["{run}", "--tasks", "--curves"], "--curves and --tasks are 2 pictures"),
        (["{run}/no_tasks", "--tasks"], "+algorithm.verl_ext.task_key=data_source"),
        (["{run}", "--curves"], "leave --curves out"),
        (["{run}", "--out", "{run}/nowhere/a.png"], "no such directory"),
        (["{run}/empty"], "trainer.logger=[file]"),
        (["{run}/broken"], "line 1"),
    ],
)
def test_errors_are_one_line_and_no_traceback(run_dir, arguments, said, capsys):
    (run_dir / "empty").mkdir()
    (run_dir / "broken").mkdir()
    (run_dir / "no_tasks").mkdir()
    (run_dir / "no_tasks" / "metrics.jsonl").write_text('{"step":1,"data":{"actor/entropy":1}}\n')
    (run_dir / "broken" / "metrics.jsonl").write_text("{]\n")
    assert run("plot", *(text.format(run=run_dir) for text in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("verl-ext plot: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_package_that_is_not_installed_is_named_with_the_remedy(monkeypatch, capsys):
    def absent(arguments):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.axes")

    monkeypatch.setattr(list_command, "run", absent)
    assert run("list") == 2
    assert "matplotlib.axes is not installed: pip install 'verl-ext[verl]'" in (
        capsys.readouterr().err
    )


def test_a_missing_module_of_our_own_is_not_hidden(monkeypatch):
    def broken(arguments):
        raise ModuleNotFoundError("No module named 'verl_ext.x'", name="verl_ext.x")

    monkeypatch.setattr(list_command, "run", broken)
    with pytest.raises(ModuleNotFoundError):
        run("list")


def test_the_command_starts_without_torch_verl_ray_or_matplotlib():
    code = (
        "import sys, verl_ext.cli.main as m; m.parser(); "
        "print([x for x in ('torch', 'verl', 'ray', 'matplotlib') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_python_m_verl_ext_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "verl_ext", "plot", "/nowhere"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "verl-ext plot: no such run directory: /nowhere\n"
