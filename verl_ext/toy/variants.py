"""The variants of the toy world: what each is made of."""

import difflib
from dataclasses import dataclass, field, replace

from verl_ext.toy.demonstrations import WarmupSpec
from verl_ext.toy.free_form import MAX_TOKENS
from verl_ext.toy.model import ModelSpec
from verl_ext.toy.task import Split, TaskSpec


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a world contains; its hash names the cached folder.

    Attributes:
        task: what the problems are made of.
        model: size of the model and of its teachers.
        warmup: the supervised training before reinforcement.
        tuning: further supervised training of the model after its warm-up, one after the other.
        teachers: (name, tuning) of each teacher, whose tuning starts from the same warm-up; the
            name is part of ``${verl_ext_toy:teacher_NAME}``.
        train: (data source, number of prompts) pairs of the training file.
        train_split: whose prompts these are; ``"validation"`` for a question that is trained on
            until it is solved.
        validation: the same for the validation file.
        seed: of the choice of the prompts.
    """

    task: TaskSpec = field(default_factory=TaskSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    warmup: WarmupSpec = field(default_factory=WarmupSpec)
    tuning: tuple[WarmupSpec, ...] = ()
    teachers: tuple[tuple[str, tuple[WarmupSpec, ...]], ...] = ()
    train: tuple[tuple[str, int], ...] = (("toy", 2048),)
    train_split: Split = "train"
    validation: tuple[tuple[str, int], ...] = (("toy", 64), ("toy_held_out", 64))
    seed: int = 0

    @property
    def free_form(self) -> bool:
        """Whether the model's last training was in free form, and so are the references."""
        return (self.warmup, *self.tuning)[-1].free_form


BASE = Recipe()
# Tunings of the base, all on other demonstrations than its warm-up. Forgetting one of two functions
# is right by chance in three answers of ten, so a student that shall fail more often slips as well.
CAREFUL = WarmupSpec(
    steps=300, lr=2e-3, single_share=0.2, careful_share=0.0, careless_share=0.0, seed=1
)
SHAKY = replace(CAREFUL, steps=60, lr=1e-3, single_share=0.35, careless_share=0.8, slip_share=0.25)
LEFT = replace(CAREFUL, careless_share=0.9, careful_pairs="toy_left")
RIGHT = replace(CAREFUL, careless_share=0.9, careful_pairs="toy_right")
HINTED = WarmupSpec(
    steps=250, lr=2e-3, single_share=0.2, careful_share=0.0, hinted_share=0.5, seed=1
)
RIGHT_ALONE = replace(CAREFUL, steps=60, single_share=0.0, pairs="toy_right", seed=2)
REASONING = WarmupSpec(
    steps=900,
    single_share=0.1,
    careful_share=0.0,
    careless_share=0.5,
    slip_share=0.05,
    free_form=True,
    seed=1,
)

VARIANTS: dict[str, Recipe] = {
    "w_reinforce": BASE,
    # The base's model on three tasks of unequal size; their rewards have unequal scales.
    "three_tasks": replace(
        BASE,
        train=(("toy_exact", 1400), ("toy_letters", 350), ("toy_points", 150)),
        validation=(("toy_exact", 48), ("toy_letters", 48), ("toy_points", 48)),
    ),
    # One teacher that mostly composes right, and a student that forgets and slips.
    "opd": replace(BASE, tuning=(SHAKY,), teachers=(("careful", (replace(CAREFUL, steps=160),)),)),
    # The same student; each teacher is careful in one domain and no better than it in the other.
    "opd_domains": replace(
        BASE,
        tuning=(SHAKY,),
        teachers=(("left", (LEFT,)), ("right", (RIGHT,))),
        train=(("toy_left", 512), ("toy_right", 512)),
        validation=(("toy_left", 64), ("toy_right", 64)),
    ),
    # The base, as careless, with hints in its tuning; its reward says what is wrong (REWARDS).
    "sdpo": replace(BASE, tuning=(HINTED,)),
    # One question of three functions for the same model, right once in 1,500 answers.
    "sdpo_hard": replace(
        BASE,
        tuning=(HINTED,),
        train=(("toy_level_3", 1),),
        train_split="validation",
        validation=(("toy", 16),),
        seed=18,
    ),
    # A skill is learned and an old one lost: knows the left domain, trains on the right one alone.
    "opd_forget": replace(
        BASE,
        tuning=(LEFT,),
        train=(("toy_right", 512),),
        validation=(("toy_left", 64), ("toy_right", 64)),
    ),
    # The old one comes back: supervised on the right domain alone, then taught by what it was.
    "opd_recover": replace(
        BASE,
        tuning=(LEFT, RIGHT_ALONE),
        teachers=(("before", (LEFT,)),),
        train=(("toy_left", 512),),
        validation=(("toy_left", 64), ("toy_right", 64)),
    ),
    # Reasons, then answers in one of several wordings; see toy.free_form.
    "rlpr": replace(BASE, tuning=(REASONING,)),
    # The base; how good an answer is, a simulated judge alone knows.
    "arena_rl": BASE,
}

RESPONSE_TOKENS = 16  # a token is a letter, answers have at most 12
REWARD = "verl_ext.toy.reward"
# Variants whose answers are rewarded by another module than that. It decides nothing that is built,
# so it is no part of a recipe, whose hash names the built folder.
REWARDS: dict[str, str] = dict.fromkeys(("sdpo", "sdpo_hard"), "verl_ext.toy.feedback")
REWARDS["rlpr"] = "verl_ext.toy.free_form_reward"
REWARDS["arena_rl"] = "verl_ext.toy.open_ended_reward"


def recipe_of(variant: str) -> Recipe:
    """Returns the recipe of a variant.

    Raises:
        ValueError: there is no such variant; names the nearest.
    """
    if variant not in VARIANTS:
        near = difflib.get_close_matches(variant, VARIANTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"toy variant must be one of {sorted(VARIANTS)}, got {variant!r}{hint}")
    return VARIANTS[variant]


def reward_of(variant: str) -> str:
    """Returns the module with the ``compute_score`` of a variant, that of most for one unknown."""
    return REWARDS.get(variant, REWARD)


def is_free_form(variant: str) -> bool:
    """Returns whether a variant's answers come with their reasoning; not those of one unknown."""
    return variant in VARIANTS and VARIANTS[variant].free_form


def response_tokens_of(variant: str) -> int:
    """Returns where a response of a variant is cut off, that of most for one unknown."""
    return MAX_TOKENS if is_free_form(variant) else RESPONSE_TOKENS
