"""What a toy model is shown before reinforcement.

The last part of it is deliberately careless: single functions are always demonstrated correctly,
compositions only some of the time; otherwise the demonstration forgets one of the two functions. So
the model has the skills but composes unreliably, and reinforcement has something to do. Without
this a half-trained model fails in many small ways, and penalising errors, as W-REINFORCE mostly
does, makes it worse instead of better.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from verl_ext.toy import free_form
from verl_ext.toy.hints import with_hints
from verl_ext.toy.task import Problem, TaskSpec, compositions, run, stream


@dataclass(frozen=True)
class WarmupSpec:
    """How long and on what a model is trained with supervision.

    Attributes:
        steps: AdamW updates; batch_size: demonstrations per update; lr: peak learning rate,
            warmed up over the first 5 % and brought to zero by a cosine;
        single_share: share of demonstrations of one function, the others show a pair;
        careful_share: share of the updates before carelessness begins;
        careless_share: share of the pairs shown after that with one function forgotten;
        pairs: data source of the pairs;
        careful_pairs: data source whose pairs are always shown right, "" for none;
        slip_share: share of the letters in careless pairs' answers that are drawn at random, in
            free form in their reasoning;
        hinted_share: share of the pairs with a hint in their prompt, see ``toy.hints``;
        free_form: whether answers come with their reasoning, in any wording: ``toy.free_form``;
        seed: of the weights, the order of the data and the carelessness;
        threads: CPU threads, part of the recipe since they decide the last bits. One,
            since two on busy cores wait for each other and take many times as long.
    """

    steps: int = 650
    batch_size: int = 64
    lr: float = 3e-3
    single_share: float = 0.35
    careful_share: float = 0.75
    careless_share: float = 0.6
    pairs: str = "toy"
    careful_pairs: str = ""
    slip_share: float = 0.0
    hinted_share: float = 0.0
    free_form: bool = False
    seed: int = 0
    threads: int = 1


def prompts_and_responses(task: TaskSpec, warmup: WarmupSpec) -> Iterator[tuple[str, str]]:
    """Returns (prompt, demonstrated response) pairs without end.

    Raises:
        ValueError: hints are asked for in free form, which has none.
    """
    if not warmup.free_form:
        shown = demonstrations(task, warmup)
        return with_hints(shown, warmup.hinted_share, task.alphabet, warmup.seed)
    if warmup.hinted_share:
        raise ValueError(f"hinted_share must be 0 in free form, got {warmup.hinted_share}")
    return free_form_demonstrations(task, warmup)


def demonstrations(task: TaskSpec, warmup: WarmupSpec) -> Iterator[tuple[Problem, str]]:
    """Yields (problem, demonstrated answer) without end; the later ones are careless at times."""
    rng = random.Random(warmup.seed)
    for problem, careless in problems(task, warmup, rng):
        skills = problem.skills
        if len(skills) > 1 and rng.random() < (warmup.careless_share if careless else 0.0):
            skills = (rng.choice(skills),)
        answer = run(skills, problem.word)
        if careless and warmup.slip_share > 0:
            answer = with_slips(answer, warmup.slip_share, task.alphabet, rng)
        yield problem, answer


def free_form_demonstrations(task: TaskSpec, warmup: WarmupSpec) -> Iterator[tuple[str, str]]:
    """Yields (prompt, demonstrated response) without end, see ``toy.free_form``.

    The careless ones forget the inner function or slip in their reasoning, and answer accordingly.
    """
    rng = random.Random(warmup.seed)
    for problem, careless in problems(task, warmup, rng):
        forget = careless and rng.random() < warmup.careless_share
        reasoning = problem.word if forget else free_form.reasoned(problem)
        if careless and warmup.slip_share > 0:
            reasoning = with_slips(reasoning, warmup.slip_share, task.alphabet, rng)
        yield problem.prompt, free_form.demonstration(problem, reasoning, rng)


def problems(
    task: TaskSpec, warmup: WarmupSpec, rng: random.Random
) -> Iterator[tuple[Problem, bool]]:
    """Yields (problem, may it be shown wrong?) without end."""
    singles = stream(task, "toy_single", "warmup", rng)
    pairs = stream(task, warmup.pairs, "warmup", rng)
    spared = compositions(warmup.careful_pairs) if warmup.careful_pairs else []
    careful = warmup.careful_share * warmup.steps * warmup.batch_size
    for shown in count():
        if rng.random() < warmup.single_share:
            yield next(singles), False
        else:
            problem = next(pairs)
            yield problem, shown >= careful and problem.skills not in spared


def with_slips(word: str, share: float, alphabet: str, rng: random.Random) -> str:
    """Returns ``word`` with that share of its letters drawn anew, on average."""
    return "".join(rng.choice(alphabet) if rng.random() < share else letter for letter in word)
