"""The group stage: a prompt's responses meet before a judge as soon as the last is sampled.

Each session waits where verl would score it, until its siblings are there too, or have failed.
Other prompts are sampled and judged meanwhile. The prompt is finished for verl once its sessions
are, so that what filters prompts by their rewards works as with any other reward.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import cycle
from typing import Any

from omegaconf import DictConfig
from verl.trainer.ppo.v1.trainer_base import apply_greedy_sampling_params

from verl_ext.adapters.judge.settings import JudgeError
from verl_ext.adapters.rollout.seeds import SEED, derived_seed
from verl_ext.adapters.rollout.stopping import stop
from verl_ext.adapters.tournament.group import GroupVerdict, judged
from verl_ext.adapters.tournament.settings import KEY, Tournament, tournament
from verl_ext.reward_fns.judged_response import judged_response

REPORT = "verl_ext_tournament"  # in a row's extra_fields
ANCHOR = 0  # the session that the others are first compared with


class GroupDroppedError(RuntimeError):
    """A prompt's responses could not be judged, and another prompt is to take its place."""


class JudgeFailedError(RuntimeError):
    """The judge failed for more of a group than it may."""


class Group:
    """The sessions of a prompt, each of which waits for the others.

    Args:
        sessions: of the prompt.
        seed: of the group's draws.
    """

    def __init__(self, sessions: int, seed: int) -> None:
        self.seed = seed
        self._missing = set(range(sessions))
        self._there: dict[int, Any] = {}
        self._complete = asyncio.Event()
        self._verdict: asyncio.Task[GroupVerdict] | None = None

    def gone(self, session: int) -> None:
        """A session has ended, whether or not it came to :meth:`verdict`."""
        self._missing.discard(session)
        if not self._missing:
            self._complete.set()

    async def verdict(self, session: int, response: Any, judge: Any) -> tuple[int, GroupVerdict]:
        """Waits for the siblings and the judge; a session's place among those judged, and all's.

        Args:
            session: asks.
            response: its own.
            judge: called once, with the responses in the order of their sessions.
        """
        self._there[session] = response
        self.gone(session)
        await self._complete.wait()
        order = sorted(self._there)
        if self._verdict is None:
            responses = [self._there[one] for one in order]
            self._verdict = asyncio.ensure_future(judge(responses, self.seed))
        return order.index(session), await asyncio.shield(self._verdict)


class TournamentGuard:
    """Mixed in before an agent-loop worker of verl's."""

    config: DictConfig
    tokenizer: Any

    @cached_property
    def _ext_tournament(self) -> Tournament | None:
        return tournament(self.config)

    @cached_property
    def _ext_judges(self) -> Iterator[Any]:
        """The judge's servers, group by group."""
        # Here: a run without a judge needs no client.
        from verl_ext.adapters.judge.client import Judge

        assert self._ext_tournament is not None
        return cycle([Judge(settings) for settings in self._ext_tournament.judges])

    @cached_property
    def _ext_groups(self) -> dict[str, Group]:
        return {}

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], **how: Any
    ) -> None:
        if self._ext_tournament is None or how["trajectory"]["validate"]:
            await super()._run_prompt(prompt, sampling_params, **how)  # type: ignore[misc]
            return
        uid = prompt["uid"]
        sessions = int(prompt.get("__rollout_n__", self.config.actor_rollout_ref.rollout.n))
        seed = derived_seed("tournament", int(prompt[SEED]) if SEED in prompt else uid)
        self._ext_groups[uid] = Group(sessions, seed)
        try:
            await super()._run_prompt(prompt, sampling_params, **how)  # type: ignore[misc]
        finally:
            del self._ext_groups[uid]

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any
    ) -> Any:
        group = self._ext_groups.get(kwargs.get("uid", ""))
        if group is None:
            return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)  # type: ignore[misc]
        assert self._ext_tournament is not None
        if kwargs["session_id"] == ANCHOR and self._ext_tournament.anchored.greedy:
            sampling_params = dict(sampling_params)
            apply_greedy_sampling_params(sampling_params)
        try:
            return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)  # type: ignore[misc]
        finally:
            group.gone(kwargs["session_id"])

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        """As verl's, once the group is judged; rows that are not to be trained on end here."""
        outputs = output if isinstance(output, list) else [output]
        group = None if validate or not outputs else self._ext_groups.get(kwargs.get("uid", ""))
        if group is not None and not await self._ext_ranked(outputs, group, kwargs):
            return
        await super()._agent_loop_postprocess(output, validate, **kwargs)  # type: ignore[misc]

    async def _ext_ranked(
        self, outputs: Sequence[Any], group: Group, row: Mapping[str, Any]
    ) -> bool:
        """Rewards a session in its last output; whether it is to be trained on."""
        wanted, session = self._ext_tournament, row["session_id"]
        assert wanted is not None

        async def judge(responses: Sequence[Any], seed: int) -> GroupVerdict:
            asked = next(self._ext_judges)
            seen = [asked.seen(response) for response in responses]
            return await judged(wanted, asked, row["raw_prompt"], seen, seed)

        try:
            place, verdict = await group.verdict(session, self._ext_shown(outputs), judge)
        # Every call would fail in the same way; or a prompt is one that no judge can read.
        except (JudgeError, ValueError) as error:
            await stop(error)
        if verdict.void and wanted.on_failure != "void_pair":
            failed = (
                f"{KEY}: the judge has failed for {verdict.sums['void']:.0f} of "
                f"{verdict.sums['comparisons']:.0f} comparisons of a prompt ({_in_words(verdict)})"
            )
            if wanted.on_failure == "raise":
                await stop(JudgeFailedError(f"{failed}, and on_failure=raise"))
            if place == 0:  # verl puts the prompt down as failed, with one line in its log
                raise GroupDroppedError(f"{failed}: another takes its place")
            return False
        anchor = wanted.anchored
        if session == ANCHOR and anchor.greedy and not anchor.train:
            return False
        final, points = outputs[-1], verdict.points[place]
        final.reward_score = verdict.rewards[place]
        # The same in all rows of the group: the trainer counts it once.
        final.extra_fields[REPORT] = {
            "void": verdict.void,
            "equal": len(set(verdict.rewards)) == 1,
            "sums": dict(verdict.sums),
        }
        final.extra_fields["reward_extra_info"] = {
            "points": float("nan") if points is None else points,
            "void": float(verdict.void),
            "outcome": f"void: {_in_words(verdict)}" if verdict.void else "judged",
        }
        return True

    def _ext_shown(self, outputs: Sequence[Any]) -> Any:
        """What the judge is shown: the policy's own words, not what tools have answered."""
        spans = []
        for output in outputs:
            start = 0
            mask = [*output.response_mask, None]
            for end in range(1, len(mask)):
                if mask[end] != mask[start]:
                    if mask[start]:
                        ids = output.response_ids[start:end]
                        spans.append(self.tokenizer.decode(ids, skip_special_tokens=True))
                    start = end
        return judged_response(spans)


def _in_words(verdict: GroupVerdict) -> str:
    failed = {
        name.removeprefix("failed/"): count
        for name, count in sorted(verdict.sums.items())
        if name.startswith("failed/")
    }
    return ", ".join(f"{name} {count:.0f}" for name, count in failed.items())
