"""What teachers can do, on the toy world, on the CPU: three whole runs and a picture of them.

    python benchmarks/teachers.py OUT [--only one_prompt two_domains two_phases] [--steps 36]

one_prompt    one question in every step, 128 responses to it. How far is the student from its
              teacher on the questions of validation, before and after?
two_domains   two teachers behind servers, each good at one domain and asked for its rows alone.
two_phases    a model that knew one domain was trained on the other alone and forgot; on questions
              of the old one it is taught by what it was before.

Runs that OUT already has are not repeated. OUT/teachers.png shows the accuracy on each domain.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
import toy_run
from toy_run import accuracy
from transformers import AutoModelForCausalLM, AutoTokenizer

from verl_ext.losses.divergence import divergence
from verl_ext.plotting.panels import COLOURS, DPI, STYLE, end_labels, grid, headline, step_axis
from verl_ext.run_log import RunLog
from verl_ext.text_table import aligned
from verl_ext.toy import answers, world
from verl_ext.toy.tokenizer import END

TEACHERS = "+distillation.teacher_models"
SERVED = (
    "num_replicas: 1, inference: ${distillation.teacher_models.teacher_model.inference}, "
    "key: toy_%s, model_path: ${verl_ext_toy:teacher_%s}"
)
EXPERIMENTS = {
    "one_prompt": [
        "data.train_max_samples=1",
        "data.train_batch_size=1",
        "actor_rollout_ref.actor.ppo_mini_batch_size=1",
        "actor_rollout_ref.rollout.n=128",
        "actor_rollout_ref.actor.optim.lr=3e-4",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,hf_model]",
    ],
    "two_domains": [
        "algorithm.verl_ext.toy=opd_domains",
        "algorithm.verl_ext.teacher.source=server",
        "distillation.enabled=true",
        "distillation.n_gpus_per_node=2",
        "distillation.nnodes=1",
        f"{TEACHERS}.left={{{SERVED % ('left', 'left')}}}",
        f"{TEACHERS}.right={{{SERVED % ('right', 'right')}}}",
    ],
    "two_phases": ["algorithm.verl_ext.toy=opd_recover"],
}
WORLDS = {"one_prompt": "opd", "two_domains": "opd_domains", "two_phases": "opd_recover"}


def run(folder: Path, name: str, steps: int) -> RunLog:
    """An experiment's log, from disk if it is whole there."""
    overrides = [
        f"trainer.save_freq={steps if name == 'one_prompt' else -1}",
        f"trainer.default_local_dir={folder}/checkpoints",
        *EXPERIMENTS[name],
    ]
    return toy_run.run(folder, steps, overrides)


@torch.no_grad()
def reverse_kl(student: Path, teacher: Path, variant: str, source: str) -> float:
    """KL(student‖teacher), nats a token, over whole distributions along the student's answers."""
    prompts = toy_run.prompts(variant, source).column("prompt").to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(student)
    models = [AutoModelForCausalLM.from_pretrained(path) for path in (student, teacher)]
    total, tokens = 0.0, 0
    for prompt, found in zip(prompts, answers.sample_answers(student, prompts, 1), strict=True):
        start = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        asked = tokenizer(start)["input_ids"]
        given = tokenizer(found[0].text + END)["input_ids"][: found[0].tokens]
        whole = torch.tensor([asked + given])
        logits = [model(input_ids=whole).logits[0, len(asked) - 1 : -1] for model in models]
        total += divergence(*logits, alpha=1.0, support="full").sum().item()
        tokens += len(given)
    return total / tokens


def facts(name: str, log: RunLog, folder: Path) -> list[tuple[str, str]]:
    """What the picture does not show, in words."""
    variant = WORLDS[name]
    toy = world.ensure(variant)
    if name == "one_prompt":
        (saved,) = (folder / "checkpoints").rglob("*.safetensors")
        pairs = {"before": toy.model, "after": saved.parent}
        return [
            (f"{source}, {when}", f"{reverse_kl(path, toy.part('teacher'), variant, source):.2f}")
            for source in log.data_sources
            for when, path in pairs.items()
        ]
    if name == "two_domains":
        shares = {k: v for k, v in log.series.items() if k.startswith("verl_ext/teacher/share/")}
        return [(k, f"{min(v.values):.2f} to {max(v.values):.2f}") for k, v in shares.items()]
    before = {source: accuracy(toy.part("teacher"), variant, source) for source in log.data_sources}
    return [(f"{source}, before it forgot", f"{value:.2f}") for source, value in before.items()]


@matplotlib.rc_context(STYLE)
def draw(logs: dict[str, RunLog], path: Path) -> None:
    """Accuracy of each domain; before the first step of two_phases, that of the earlier self."""
    figure, panels = grid(len(logs), columns=len(logs))
    for axes, (name, log) in zip(panels, logs.items(), strict=True):
        marks = []
        for colour, source in zip(COLOURS, log.data_sources, strict=False):
            series = log.pass_at_k(source)[1]
            axes.plot(series.steps, series.values, color=colour)
            marks.append((series.values[-1], f"{source}  {series.values[-1]:.2f}", colour))
            if name == "two_phases":
                level = accuracy(world.ensure(WORLDS[name]).part("teacher"), WORLDS[name], source)
                axes.axhline(level, color=colour, linestyle=":", linewidth=1)
                marks.append((level, f"its earlier self  {level:.2f}", colour))
        axes.set_ylim(0, 1)
        axes.set_ylabel("pass@1")
        axes.set_title(name.replace("_", " "))
        step_axis(axes, log.last_step)
        end_labels(axes, marks)
    headline(figure, "Teachers", "accuracy on the validation prompts of each domain")
    figure.savefig(path, format="png", dpi=DPI)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, prints what came of it, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--steps", type=int, default=36)
    args = parser.parse_args(arguments)
    out = args.out.absolute()
    logs = {name: run(out / name, name, args.steps) for name in args.only}
    for name, log in logs.items():
        rows = [("pass@1 of", "first", "last")]
        for source in log.data_sources:
            values = log.pass_at_k(source)[1].values
            rows.append((source, f"{values[0]:.3f}", f"{values[-1]:.3f}"))
        print(f"\n{name}\n" + "\n".join(aligned(rows, 1)))
        print("\n".join(aligned(facts(name, log, out / name), 1)))
    draw(logs, out / "teachers.png")
    print(f"\npicture: {out}/teachers.png")


if __name__ == "__main__":
    main()
