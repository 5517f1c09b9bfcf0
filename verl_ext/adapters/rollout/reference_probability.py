"""The reference-probability reward where responses are sampled.

As soon as a response is there, its answer is replaced by the reference and the policy's own server
is asked how likely that is, while other responses are still being sampled. A response that cannot
be scored is left out of its group, by name: a reward of 0 would teach something.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any
from uuid import uuid4

import transfer_queue as tq
from omegaconf import DictConfig
from ray.exceptions import RayError
from verl.workers.rollout.llm_server import LLMServerClient

from verl_ext.adapters.reference_probability.report import (
    REPORT,
    Pending,
    Report,
    extra_info,
    total,
)
from verl_ext.adapters.reference_probability.settings import (
    KEY,
    ReferenceProbability,
    Weights,
    reference_probability,
    room,
)
from verl_ext.adapters.reference_probability.splicer import Splicer
from verl_ext.adapters.rollout.stopping import in_words, stop
from verl_ext.reward_fns.reference_reward import ReferenceReward
from verl_ext.reward_fns.splice import Outcome, SplicedTokens, of_reference

BASE = "verl_ext_base_score"  # of a prompt, from the trainer
UNSCORED = "verl_ext_unscored"  # partition of the queue: responses that are in no batch, and why
ABORTED = ("aborted", "abort")  # by an update of the weights: ask again
RETRY_S = 1.0
# A server that died, hangs, or answers with something else than a log-prob for each token.
FAILURES = (RayError, asyncio.TimeoutError, KeyError, IndexError, TypeError, ValueError)


class ScoringError(RuntimeError):
    """The policy's server did not say how likely a reference is."""


class ReferenceGuard:
    """Mixed in before an agent-loop worker of verl's."""

    config: DictConfig
    tokenizer: Any
    llm_client: Any

    @cached_property
    def _ext_reference(self) -> ReferenceProbability | None:
        return reference_probability(self.config)

    @cached_property
    def _ext_reward_rule(self) -> ReferenceReward:
        assert self._ext_reference is not None
        return self._ext_reference.rule()

    @cached_property
    def _ext_splicer(self) -> Splicer:
        return Splicer(self.tokenizer, self._ext_reward_rule.tags)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        """As verl's, with a reward of ours; a response without one is put down as unscored."""
        base = kwargs.pop(BASE, None)
        outputs = output if isinstance(output, list) else [output]
        if self._ext_reference is not None and not validate and outputs:
            weights = self._ext_reference.weights_of(str(kwargs["data_source"]))
            if weights.probability > 0:
                if base is None and self._ext_reference.debiases:
                    await stop(
                        ScoringError(f"{KEY}: a prompt came without its base score ({BASE})")
                    )
                outcome = await self._ext_reward(outputs, weights, float(base or 0.0), kwargs)
                if outcome is not None:
                    key = f"{kwargs['uid']}_{kwargs['session_id']}"
                    tag = {"uid": kwargs["uid"], "outcome": outcome.value}
                    await tq.async_kv_put(key=key, partition_id=UNSCORED, tag=tag)
                    return
        await super()._agent_loop_postprocess(output, validate, **kwargs)  # type: ignore[misc]

    async def _ext_reward(
        self, outputs: Sequence[Any], weights: Weights, base: float, row: Mapping[str, Any]
    ) -> Outcome | None:
        """Rewards a session in its last output; the outcome where that cannot be done."""
        final, wanted = outputs[-1], self._ext_reference
        assert wanted is not None
        if final.multi_modal_data:
            await stop(ScoringError(f"{KEY} scores text, and a prompt comes with images or more"))
        opened, response = self._ext_splicer.response(final.prompt_ids, final.response_ids)
        spliced = self._ext_splicer.spliced(
            opened,
            response,
            row["reward_model"]["ground_truth"],
            max_tokens=room(self.config, len(final.prompt_ids)),
        )
        later = wanted.mode == "trainer" and spliced.outcome is Outcome.OK
        log_probs, verifier = await asyncio.gather(
            _nothing([]) if later else self._ext_log_probs(final.prompt_ids, spliced),
            self._ext_verified(outputs, row) if weights.verifier > 0 else _nothing(None),
        )
        if later:
            pending = Pending(opened + response, spliced.token_ids, spliced.reference_mask, base)
            report, reward = Report(asdict(weights), verifier, pending=asdict(pending)), 0.0
        else:
            parts = self._ext_reward_rule.parts(opened + response, spliced.outcome, log_probs, base)
            if not parts.scored:
                return parts.outcome
            report = Report(asdict(weights), verifier, parts=asdict(parts))
            reward = total(report)
        final.reward_score = reward
        final.extra_fields[REPORT] = asdict(report)
        info = final.extra_fields.get("reward_extra_info") or {}
        final.extra_fields["reward_extra_info"] = info | extra_info(report)
        return None

    async def _ext_verified(self, outputs: Sequence[Any], row: Mapping[str, Any]) -> float:
        """verl's own reward, or the agent loop's."""
        await super()._compute_score(outputs, kwargs=row)  # type: ignore[misc]
        return float(outputs[-1].reward_score)

    async def _ext_log_probs(
        self, prompt_ids: Sequence[int], spliced: SplicedTokens
    ) -> list[float]:
        """Of the reference's tokens, in nats; none where nothing was spliced."""
        if spliced.outcome is not Outcome.OK:
            return []
        assert self._ext_reference is not None
        timeout = self._ext_reference.timeout_s
        # There a request waits while the trainer has the devices, however long that takes.
        waits = str(self.config.trainer.v1.trainer_mode).endswith("colocate_async")
        ids = [*prompt_ids, *spliced.token_ids]
        try:
            values = await asyncio.wait_for(self._ext_ask(ids), None if waits else timeout)
        except FAILURES as error:
            why = in_words(error, f"no answer within {timeout:g} s ({KEY}.timeout_s)")
            message = f"{KEY}: the policy's server could not score a response: {why}"
            await stop(ScoringError(message), error)
        # Entry i is about token i + 1: the response's first token is told by the last prompt's.
        of_response = values[len(prompt_ids) - 1 : len(ids) - 1]
        return of_reference(of_response, spliced.reference_mask)

    async def _ext_ask(self, ids: list[int]) -> list[float]:
        """What the policy's server says of each token, but the first; the last is a dummy."""
        # Not the client's own generate: that of the async trainers drops these log-probs.
        request = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0, "detokenize": False}
        while True:
            output = await LLMServerClient.generate(
                self.llm_client, uuid4().hex, prompt_ids=ids, sampling_params=dict(request)
            )
            if output.stop_reason not in ABORTED:
                break
            await asyncio.sleep(RETRY_S)
        values = [float(entry[0]) for entry in output.extra_fields["prompt_logprobs"]]
        if len(values) != len(ids):
            raise ValueError(f"{len(values)} log-probs of {len(ids)} tokens")
        return values


async def _nothing(value: Any) -> Any:
    return value
