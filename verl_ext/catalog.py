"""Everything verl-ext registers, by name. Pure: no verl, no configuration.

One dictionary per extension point; a new method is one entry here (``CONTRIBUTING.md``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verl_ext import papers
from verl_ext.advantage_fns.rank import rank
from verl_ext.advantage_fns.reverse_kl import reverse_kl
from verl_ext.advantage_fns.task_norm import task_norm
from verl_ext.advantage_fns.w_reinforce import w_reinforce
from verl_ext.masks import aepo, std_filter, zero_advantage
from verl_ext.reward_fns.reference_reward import ReferenceReward
from verl_ext.reward_fns.tournament import single_elimination
from verl_ext.sampling.stream import TaskBalancedStream


@dataclass(frozen=True)
class Plugin:
    """A function that verl can be told to use.

    Attributes:
        function: pure, or a class whose objects are called where it has a state; its keyword-only
            parameters are the keys of its configuration.
        title: of the paper it comes from.
        url: where that paper is.
        summary: what it does to learning, in a few words.
        line: what to type in a shell to use it without an overlay.
        overlays: the overlays that use it.
        needs: batch fields it takes by name beside rewards or advantages and mask, by our names.
        requires: what it asks of the run, in words; empty if nothing.
        binary_outcomes: it refuses outcomes other than 0 and 1.
    """

    function: Callable[..., Any]
    title: str
    url: str
    summary: str
    line: str
    overlays: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    requires: str = ""
    binary_outcomes: bool = False


_OURS = "trainer.v1.trainer_mode=verl_ext.sync"


ADVANTAGES: dict[str, Plugin] = {
    "verl_ext.w_reinforce": Plugin(
        function=w_reinforce,
        title=papers.NEGATIVE,
        url=papers.NEGATIVE_URL,
        summary="+λ for a correct response, −μ for a wrong one; no baseline, no group",
        line="algorithm.adv_estimator=verl_ext.w_reinforce",
        overlays=("w_reinforce", "psr", "nsr"),
        requires=papers.BINARY,
        binary_outcomes=True,
    ),
    "verl_ext.task_norm": Plugin(
        function=task_norm,
        title=papers.LONG,
        url=papers.LONG_URL,
        summary="outcome minus its group's mean, over the deviation of its task in the batch",
        line=f"algorithm.adv_estimator=verl_ext.task_norm {_OURS}",
        overlays=("task_norm", "qwenlong_l15"),
        needs=("group_ids", "task_ids"),
        requires="a verl_ext.* trainer, a column that names each prompt's task, "
        "several responses a prompt",
    ),
    "verl_ext.rank": Plugin(
        function=rank,
        title=papers.ARENA,
        url=papers.ARENA_URL,
        summary="a response's reward, such as its rank, standardised in its group",
        line="algorithm.adv_estimator=verl_ext.rank",
        overlays=("arena_rl",),
        needs=("group_ids",),
        requires="several responses a prompt",
    ),
}

# A teacher's term, added to the advantage of any estimator: A = task_weight * A_task + term.
MIXERS: dict[str, Plugin] = {
    "verl_ext.opd": Plugin(
        function=reverse_kl,
        title=papers.OPD,
        url=papers.OPD_URL,
        summary="every sampled token is judged by a teacher's log-prob of it",
        line="algorithm.adv_estimator=verl_ext.opd "
        f"'+algorithm.verl_ext.teacher={{source: ref, path: MODEL}}' {_OURS}",
        overlays=("opd",),
        needs=("student_log_probs", "teacher_log_probs"),
        requires="a verl_ext.* trainer, a teacher with the student's tokenizer",
    ),
    "verl_ext.sdpo": Plugin(
        function=reverse_kl,
        title=papers.SDPO,
        url=papers.SDPO_URL,
        summary="every sampled token is judged by the policy itself, which has seen a success",
        line="algorithm.adv_estimator=verl_ext.sdpo "
        f"'+algorithm.verl_ext.teacher={{source: ema, max_prompt_length: N}}' {_OURS} "
        "actor_rollout_ref.actor.strategy=fsdp2",
        overlays=("sdpo", "sdpo_rich_feedback", "sdpo_test_time"),
        needs=("student_log_probs", "teacher_log_probs"),
        requires="a verl_ext.* trainer, several responses a prompt or feedback on them",
    ),
}

MASKS: dict[str, Plugin] = {
    "aepo": Plugin(
        function=aepo.Aepo,
        title=papers.LONG,
        url=papers.LONG_URL,
        summary="while the policy is too uncertain, negative advantages are withheld",
        line=f"+algorithm.verl_ext.masks.aepo={{}} {_OURS}",
        overlays=("aepo", "qwenlong_l15"),
        needs=("entropy",),
        requires="a verl_ext.* trainer, old log-probs from the trainer",
    ),
    "std_filter": Plugin(
        function=std_filter.StdFilterMask,
        title=papers.RLPR,
        url=papers.RLPR_URL,
        summary="prompts whose responses differ too little in reward are replaced, or masked",
        line=f"'+algorithm.verl_ext.masks.std_filter={{mode: resample}}' {_OURS}",
        overlays=("std_filter",),
        needs=("rewards", "group_ids", "task_ids"),
        requires="a verl_ext.* trainer, several responses a prompt",
    ),
    "zero_advantage": Plugin(
        function=zero_advantage.keep_mask,
        title=papers.NEGATIVE,
        url=papers.NEGATIVE_URL,
        summary="rows of advantage 0 leave the loss and its denominator",
        line=f"+algorithm.verl_ext.masks.zero_advantage={{}} {_OURS}",
        overlays=("psr", "nsr"),
        requires="a verl_ext.* trainer, actor_rollout_ref.actor.loss_agg_mode=token-mean",
    ),
}

SAMPLERS: dict[str, Plugin] = {
    "task_balanced": Plugin(
        function=TaskBalancedStream,
        title=papers.LONG,
        url=papers.LONG_URL,
        summary="every batch holds its quota of each task, and no prompt is lost",
        line=f"'+algorithm.verl_ext.sampler.task_balanced={{weights: uniform}}' {_OURS} "
        "data.dataloader_num_workers=0",
        overlays=("task_balanced", "qwenlong_l15"),
        requires="a verl_ext.* trainer, a column that names each prompt's task",
    ),
}

REWARDS: dict[str, Plugin] = {
    "reference_probability": Plugin(
        function=ReferenceReward,
        title=papers.RLPR,
        url=papers.RLPR_URL,
        summary="how likely the policy finds the reference answer after its own reasoning",
        line=f"+algorithm.verl_ext.group_reward.reference_probability={{}} {_OURS}",
        overlays=("rlpr", "rlpr_llama", "rlpr_gemma"),
        requires="a verl_ext.* trainer, reference answers, responses between tags",
    ),
    "tournament": Plugin(
        function=single_elimination,
        title=papers.ARENA,
        url=papers.ARENA_URL,
        summary="a judge compares a prompt's responses in pairs, and their ranks are the reward",
        line="'+algorithm.verl_ext.group_reward.tournament.judge={base_url: URL, model: NAME}' "
        f"{_OURS}",
        overlays=("arena_rl",),
        requires="a verl_ext.* trainer, a judge, several responses a prompt",
    ),
}
