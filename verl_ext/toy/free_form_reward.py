"""The hidden judge of free-form answers: the right word, in whatever wording.

For validation. A run that trains on it has what a verifier knows, and needs no probability.
"""

from typing import Any

from verl_ext.toy import free_form, reward


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    exact: bool = False,
    **kw: Any,
) -> dict[str, float]:
    """Returns ``score`` and ``acc``, 1.0 for the right word in any wording, and ``exact``.

    ``exact`` is 1.0 for the reference's own wording alone: what equality with it would reward. A
    response that is not in the format has no word, and gets 0 throughout.

    Args:
        data_source: as in :func:`verl_ext.toy.reward.compute_score`.
        solution_str: as there.
        ground_truth: the reference, in its wording.
        extra_info: as there, not used.
        exact: lets ``score`` be ``exact``: the rule that a run without a judge would have. In a
            run: ``reward.custom_reward_function.reward_kwargs.exact``.
        kw: as there: ``scales`` and what verl adds.

    Raises:
        TypeError: as there; also an unknown keyword.
        ValueError: as there; also a reference that is a wording of no word.
    """
    reward.require_texts(solution_str=solution_str, ground_truth=ground_truth)
    found = free_form.parsed(reward.answered_word(solution_str))
    answer = found.answer if found else ""
    truth = free_form.true_word(ground_truth) if ground_truth else ""
    scored = reward.compute_score(
        data_source, free_form.word_of(answer) or "", truth, extra_info, **kw
    )
    same = float(answer == ground_truth)
    return {**scored, "exact": same, **({"score": same} if exact else {})}
