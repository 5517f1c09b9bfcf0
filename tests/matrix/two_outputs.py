"""An agent loop whose sessions have two outputs: a draft, and the response that is scored."""

from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop


class TwoOutputs(SingleTurnAgentLoop):
    """Answers twice; verl gives the first output the score of the last."""

    async def run(self, *args, **kwargs):
        return [await super(TwoOutputs, self).run(*args, **kwargs) for _ in range(2)]
