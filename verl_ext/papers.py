"""The papers, each an overlay ``+paper=<name>``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A paper as an overlay, ``+paper=<name>``.

    Attributes:
        title: of the paper.
        url: where it is.
        summary: what the overlay does to learning, in a few words.
        line: what to type.
        requires: what it asks of the run, in words; empty if nothing.
    """

    title: str
    url: str
    summary: str
    line: str
    requires: str = ""


RUN = "python -m verl.trainer.main_ppo"
BINARY = "rewards of 0 or 1"
# In the place of the scale's task, whose prompts ask for no tags and whose answers have a verifier.
YOUR_QUESTIONS = (
    "data.train_files=YOUR_TRAIN.parquet data.val_files=YOUR_VAL.parquet "
    "data.max_prompt_length=2048 data.max_response_length=3072 "
    "trainer.test_freq=-1 trainer.val_before_train=false"
)
NEGATIVE = "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning"
NEGATIVE_URL = "https://arxiv.org/abs/2506.01347"
LONG = "QwenLong-L1.5: Post-Training Recipe for Long-Context Reasoning and Memory Management"
LONG_URL = "https://arxiv.org/abs/2512.12967"
OPD = "On-Policy Distillation"
OPD_URL = "https://thinkingmachines.ai/blog/on-policy-distillation/"
SDPO = "Reinforcement Learning via Self-Distillation"
SDPO_URL = "https://arxiv.org/abs/2601.20802"
RLPR = "RLPR: Extrapolating RLVR to General Domains without Verifiers"
RLPR_URL = "https://arxiv.org/abs/2506.18254"
ARENA = "ArenaRL: Scaling RL for Open-Ended Agents via Tournament-based Relative Ranking"
ARENA_URL = "https://arxiv.org/abs/2601.06487"

PAPERS: dict[str, Paper] = {
    "w_reinforce": Paper(
        title=NEGATIVE,
        url=NEGATIVE_URL,
        summary="learns from mistakes at full weight, from successes at a tenth",
        line=f"{RUN} +paper=w_reinforce +scale=cpu",
        requires=BINARY,
    ),
    "psr": Paper(
        title=NEGATIVE,
        url=NEGATIVE_URL,
        summary="learns from successes alone",
        line=f"{RUN} +paper=psr +scale=cpu",
        requires=BINARY,
    ),
    "nsr": Paper(
        title=NEGATIVE,
        url=NEGATIVE_URL,
        summary="learns from mistakes alone",
        line=f"{RUN} +paper=nsr +scale=cpu",
        requires=BINARY,
    ),
    "opd": Paper(
        title=OPD,
        url=OPD_URL,
        summary="a teacher's log-probs of the student's own responses, token by token",
        line=f"{RUN} +paper=opd +scale=cpu",
        requires="a teacher with the student's tokenizer; no verifier",
    ),
    "sdpo": Paper(
        title=SDPO,
        url=SDPO_URL,
        summary="the policy, shown a sibling's success, says which of its tokens were wrong",
        line=f"{RUN} +paper=sdpo +scale=cpu",
        requires="several responses a prompt, of which some succeed",
    ),
    "sdpo_rich_feedback": Paper(
        title=SDPO,
        url=SDPO_URL,
        summary="the same, and shown what the environment said about its own response",
        line=f"{RUN} +paper=sdpo_rich_feedback +scale=cpu",
        requires='a reward function that returns "feedback" beside "score"',
    ),
    "sdpo_test_time": Paper(
        title=SDPO,
        url=SDPO_URL,
        summary="one hard question, sampled and learned from until a response succeeds",
        line=f"{RUN} +paper=sdpo_test_time +scale=cpu",
        requires='one question, and a reward function that returns "feedback" beside "score"',
    ),
    "qwenlong_l15": Paper(
        title=LONG,
        url=LONG_URL,
        summary="task_norm, task_balanced and aepo together, with the paper's settings",
        line=f"{RUN} +paper=qwenlong_l15 +scale=cpu",
        requires="a column that names each prompt's task",
    ),
    "task_norm": Paper(
        title=LONG,
        url=LONG_URL,
        summary="tasks of different reward scales speak equally loudly",
        line=f"{RUN} +paper=task_norm +scale=cpu",
        requires="a column that names each prompt's task",
    ),
    "task_balanced": Paper(
        title=LONG,
        url=LONG_URL,
        summary="every batch holds its quota of each task",
        line=f"{RUN} +paper=task_balanced +scale=cpu algorithm.adv_estimator=grpo",
        requires="a column that names each prompt's task",
    ),
    "aepo": Paper(
        title=LONG,
        url=LONG_URL,
        summary="mistakes do not teach while the policy is too uncertain",
        line=f"{RUN} +paper=aepo +scale=cpu algorithm.adv_estimator=grpo",
        requires="an estimator with negative advantages, such as grpo",
    ),
    "std_filter": Paper(
        title=RLPR,
        url=RLPR_URL,
        summary="prompts whose responses differ too little in reward are replaced by others",
        line=f"{RUN} +paper=std_filter +scale=cpu algorithm.adv_estimator=grpo",
        requires="several responses a prompt, rewards as soon as they are sampled",
    ),
    "arena_rl": Paper(
        title=ARENA,
        url=ARENA_URL,
        summary="open-ended tasks: responses are ranked by a judge in a tournament",
        line=f"{RUN} +paper=arena_rl +scale=cpu",
        requires="a judge behind an OpenAI-compatible endpoint, several responses a prompt",
    ),
    "rlpr": Paper(
        title=RLPR,
        url=RLPR_URL,
        summary="questions with reference answers and no verifier, and the std filter",
        line=f"{RUN} +paper=rlpr +scale=cpu",
        requires="a reference answer for each question, several responses a prompt",
    ),
    "rlpr_llama": Paper(
        title=RLPR,
        url=RLPR_URL,
        summary="the same with the authors' values for Llama: no reasoning tags, another beta",
        line=f"{RUN} +paper=rlpr_llama +scale=gpu8 "
        f"actor_rollout_ref.model.path=meta-llama/Llama-3.1-8B-Instruct {YOUR_QUESTIONS}",
        requires="as rlpr",
    ),
    "rlpr_gemma": Paper(
        title=RLPR,
        url=RLPR_URL,
        summary="the same with the authors' values for Gemma",
        line=f"{RUN} +paper=rlpr_gemma +scale=gpu8 "
        f"actor_rollout_ref.model.path=google/gemma-2-2b-it {YOUR_QUESTIONS}",
        requires="as rlpr",
    ),
}
