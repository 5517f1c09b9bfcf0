"""What a person sees while verl runs and when it ends."""

import io
import json
from types import SimpleNamespace

import pytest
import verl  # loads the plugin  # noqa: F401
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from verl_ext.adapters import machine, run_view
from verl_ext.platforms import cpu, cpu_patches


def lines_of(*lines, actor="TaskRunnerV1", pid=7):
    return {"pid": pid, "actor_name": actor, "lines": list(lines), "is_err": False}


def test_everything_a_process_prints_goes_to_the_log_under_its_name():
    sink = io.StringIO()
    logs = run_view.WorkerLogs(sink, show_steps=False)
    logs.receive(lines_of("loading", "step:3 - critic/rewards/mean:0.5"))
    assert sink.getvalue().splitlines() == [
        "(TaskRunnerV1 pid=7) loading",
        "(TaskRunnerV1 pid=7) step:3 - critic/rewards/mean:0.5",
    ]


def test_steps_are_not_repeated_when_console_is_not_named(monkeypatch):
    written = []
    monkeypatch.setattr(run_view.tqdm, "write", lambda line, file=None: written.append(line))
    run_view.WorkerLogs(io.StringIO(), show_steps=False).receive(lines_of("step:3 - a:1"))
    run_view.WorkerLogs(io.StringIO(), show_steps=True).receive(lines_of("step:4 - a:1", "other"))
    assert written == ["step:4 - a:1"]


def test_what_we_have_to_say_reaches_the_terminal(monkeypatch):
    written = []
    monkeypatch.setattr(run_view.tqdm, "write", lambda line, file=None: written.append(line))
    ours = "[verl_ext] step 3: nothing left to learn from, no update"
    run_view.WorkerLogs(io.StringIO(), show_steps=False).receive(lines_of("other", ours))
    assert written == [ours]


def test_the_process_that_failed_gets_its_last_words(capsys, tmp_path):
    logs = run_view.WorkerLogs(io.StringIO(), show_steps=False)
    logs.receive(lines_of("all fine", actor="Storage", pid=1))
    logs.receive(lines_of("Traceback (most recent call last):", "KeyError: 'x'", actor="Agent"))
    logs.show_trouble(tmp_path / "verl.log")
    shown = capsys.readouterr().err
    assert "last lines of Agent pid=7" in shown
    assert "KeyError: 'x'" in shown
    assert "all fine" not in shown
    assert str(tmp_path / "verl.log") in shown


def test_the_bar_follows_verls_metrics_file_line_by_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    bar = run_view.ProgressBar(path, 10)
    assert list(bar._new_records()) == []
    first = json.dumps({"step": 1, "data": {"critic/rewards/mean": 0.25}})
    path.write_text(first + "\n" + '{"step": 2, "da')
    assert [record["step"] for record in bar._new_records()] == [1]
    with path.open("a") as file:
        file.write('ta": {}}\n')
    assert [record["step"] for record in bar._new_records()] == [2]


@pytest.mark.parametrize("source", ["toy", "openai/gsm8k"])
def test_the_bar_shows_reward_and_validation(tmp_path, source):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        json.dumps({"step": 0, "data": {f"verl_ext/val/{source}/pass@1": 0.5}})
        + "\n"
        + json.dumps({"step": 1, "data": {"critic/rewards/mean": 0.25}})
        + "\n"
    )
    shown = {}
    fake = SimpleNamespace(
        n=0,
        set_description=lambda text, refresh: shown.update(text=text),
        update=lambda k: shown.update(step=k),
    )
    run_view.ProgressBar(path, 10)._advance(fake)
    assert shown == {"text": f"reward 0.250 · validation {source} 0.500", "step": 1}


def test_a_finished_run_prints_a_table_and_draws_a_picture(tmp_path, capsys):
    metrics = tmp_path / "metrics.jsonl"
    rows = [
        {"step": 0, "data": {"verl_ext/val/toy/pass@1": 0.4, "verl_ext/val/toy/pass@2": 0.5}},
        {"step": 1, "data": {"critic/rewards/mean": 0.4, "actor/entropy": 0.3}},
        {"step": 2, "data": {"verl_ext/val/toy/pass@1": 0.6, "verl_ext/val/toy/pass@2": 0.7}},
    ]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_view.report(tmp_path, metrics, "toy", 61.0)
    out = capsys.readouterr().out
    assert "0.4" in out
    assert "0.6" in out
    assert (tmp_path / run_view.PICTURE).stat().st_size > 10_000


@pytest.mark.parametrize("ready", [True, False])
def test_a_run_that_failed_draws_nothing(tmp_path, capsys, monkeypatch, ready):
    """And a run that was refused before it began has nothing to show."""
    config = OmegaConf.create(
        {"hydra": {"runtime": {"output_dir": str(tmp_path)}}, "algorithm": {}, "trainer": {}}
    )
    monkeypatch.setattr(run_view, "READY", SimpleNamespace(is_set=lambda: ready))
    view = run_view.RunView()
    view._logs = run_view.WorkerLogs(io.StringIO(), show_steps=False)
    failed = JobReturn(status=JobStatus.FAILED)
    view.on_job_end(config, failed)
    assert not (tmp_path / run_view.PICTURE).exists()
    assert ("everything the run printed" in capsys.readouterr().err) is ready


def test_verls_metrics_file_is_put_into_the_runs_directory(verl_config, monkeypatch, tmp_path):
    config = verl_config("+paper=w_reinforce", "+scale=cpu", "trainer.logger=[console]")
    hydra = SimpleNamespace(
        runtime=SimpleNamespace(output_dir=str(tmp_path)), callbacks={"verl_ext": {}}
    )
    for module in (machine, run_view):
        monkeypatch.setattr(module.HydraConfig, "initialized", staticmethod(lambda: True))
        monkeypatch.setattr(module.HydraConfig, "get", staticmethod(lambda: hydra))
    machine.prepare(config)
    assert list(config.trainer.logger) == ["console", "file"]  # the bar reads the file
    variables = config.ray_kwargs.ray_init.runtime_env.env_vars
    assert str(tmp_path / "metrics.jsonl") == variables.VERL_FILE_LOGGER_PATH


def test_every_run_has_a_name_of_its_own_on_the_machine(verl_config):
    names = set()
    for _ in range(2):
        config = verl_config("+paper=w_reinforce", "+scale=cpu")
        machine.prepare(config)
        names.add(config.ray_kwargs.ray_init.runtime_env.env_vars[cpu_patches.RUN])
    assert len(names) == 2


@pytest.mark.parametrize(("scale", "off"), [("cpu", False), ("gpu1", True)])
def test_no_process_of_a_run_on_accelerators_takes_the_cpu_for_one(verl_config, scale, off):
    """A worker without a GPU of its own may see none, and its servers are told as the CPU's."""
    config = verl_config("+paper=w_reinforce", f"+scale={scale}")
    machine.prepare(config)
    variables = config.ray_kwargs.ray_init.get("runtime_env", {}).get("env_vars", {})
    assert (cpu.OFF in variables) == off


def test_a_place_the_user_chose_for_the_metrics_is_left_alone(verl_config, monkeypatch):
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", "/elsewhere.jsonl")
    config = verl_config("+paper=w_reinforce", "+scale=cpu")
    machine.prepare(config)
    assert "VERL_FILE_LOGGER_PATH" not in config.ray_kwargs.ray_init.runtime_env.env_vars
    wanted = OmegaConf.create({"hydra": {"runtime": {"output_dir": "/run"}}})
    assert str(run_view.metrics_file(wanted)) == "/elsewhere.jsonl"


@pytest.mark.parametrize("paper", ["w_reinforce", "psr", "nsr"])
def test_every_paper_brings_the_view(paper):
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", [f"+paper={paper}"], return_hydra_config=True)
    assert config.hydra.callbacks.verl_ext._target_ == "verl_ext.adapters.run_view.RunView"
