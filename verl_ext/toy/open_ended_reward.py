"""The hidden quality of an answer, for validation: a judge sees it, and no rule of the run does."""

from typing import Any

from verl_ext.toy import reward


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **kw: Any,
) -> dict[str, float]:
    """Returns ``score``, the quality in [0, 1], and ``acc``, 1.0 for the right word else 0.

    Args:
        data_source: as in :func:`verl_ext.toy.reward.compute_score`, as are the others.
        solution_str: as there.
        ground_truth: as there.
        extra_info: as there.
        kw: as there.

    Raises:
        TypeError: as there.
        ValueError: as there.
    """
    scored = reward.compute_score(data_source, solution_str, ground_truth, extra_info, **kw)
    return scored | {"score": reward.likeness(reward.answered_word(solution_str), ground_truth)}
