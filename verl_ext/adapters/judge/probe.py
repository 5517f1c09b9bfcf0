"""A first judgement, before a run depends on the judge."""

from verl_ext.adapters.judge.client import Judge
from verl_ext.adapters.judge.settings import JudgeSettings
from verl_ext.adapters.judge.verdict import PairVerdict, SingleVerdict
from verl_ext.reward_fns.judge_prompt import JudgedResponse

QUESTION = ({"role": "user", "content": "Name a prime number above 10."},)
RIGHT, WRONG = JudgedResponse(answer="11 is one."), JudgedResponse(answer="12 is one.")


async def first_judgement(settings: JudgeSettings, *, alone: bool) -> PairVerdict | SingleVerdict:
    """What a judge says of an easy case; which scores it gives is its own affair.

    Args:
        settings: of the judge.
        alone: one response, as for pointwise scores; else a pair.

    Raises:
        JudgeError: no call can succeed.
    """
    judge = Judge(settings)
    try:
        if alone:
            return await judge.single(QUESTION, RIGHT)
        return await judge.pair(QUESTION, RIGHT, WRONG)
    finally:
        await judge.close()
