"""Refuses a tournament that could not be judged, or settings without effect."""

import asyncio
import atexit
import importlib.util
import os
import re
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.group_rewards import SECTION, refuse_scores_after_sampling, section
from verl_ext.adapters.judge.settings import JudgeError
from verl_ext.adapters.judge.verdict import Failure
from verl_ext.adapters.teacher.settings import rewarded_estimator
from verl_ext.adapters.tournament.settings import KEY, POLICY, SIMULATED, Tournament, tournament
from verl_ext.catalog import ADVANTAGES
from verl_ext.simulated_judge.child import RunningJudge, start

CLIENTS = ("openai", "tenacity", "aiohttp")
STILL_TO_COME = "http://judge/v1"  # in the place of a server of the run's own, which has not begun
# What to type where a judge does not judge, by what it did instead.
HINTS = {
    Failure.CONNECTION: f". Is it running there? Else: {KEY}.judge.base_url=http://HOST:PORT/v1",
    Failure.TIMEOUT: f". More patience: {KEY}.judge.timeout_s=300",
    Failure.TRUNCATED: f". A judge that reasons first needs more: {KEY}.judge.max_tokens=2048",
    Failure.REJECTED: f". An endpoint without JSON schemas: +{KEY}.judge.structured=none",
    Failure.MALFORMED: ". Does the endpoint heed the request's JSON schema?",
}


def check(config: DictConfig) -> None:
    """Refuses what would fail or have no effect.

    Args:
        config: verl's whole configuration.

    Raises:
        SettingsError: names the key and the line to type.
    """
    wanted = tournament(config)
    if wanted is None:
        return
    _check_clients()
    if wanted.address is None:
        raise SettingsError(
            f"{KEY}.judge.base_url is empty: nobody judges. Add: {KEY}.judge.base_url="
            f"http://HOST:PORT/v1 {KEY}.judge.model=NAME; or {KEY}.judge.base_url={POLICY}, the "
            "policy's own servers"
        )
    mode = str(config.trainer.v1.trainer_mode)
    if wanted.address == POLICY and mode.endswith("colocate_async"):
        raise SettingsError(
            f"{KEY}.judge.base_url={POLICY}: under '{mode}' the policy's servers sleep while the "
            "trainer has the devices, and a judgement that waits for them fails. Add: "
            f"trainer.v1.trainer_mode={mode.replace('colocate', 'separate')}, or another judge: "
            f"{KEY}.judge.base_url=http://HOST:PORT/v1"
        )
    anchor = wanted.anchored
    judge = wanted.judge_at(STILL_TO_COME) if wanted.found_by_run else wanted.judges[0]
    if wanted.address == SIMULATED:
        wanted.simulated_by()
    if wanted.pointwise and anchor.greedy:
        raise SettingsError(
            f"{KEY}.anchor.greedy has no effect with topology=pointwise, which has no anchor. "
            f"Add: {KEY}.anchor.greedy=false"
        )
    if judge.api_key_env and not os.environ.get(judge.api_key_env):
        name = judge.api_key_env
        # What is no name may be the key itself, which is not to be printed.
        shown = name if re.fullmatch("[A-Z_][A-Z0-9_]*", name) else "variable called that"
        raise SettingsError(
            f"{KEY}.judge.api_key_env names the environment variable that holds the key, and the "
            f"environment has no {shown}. Set it; a judge that asks for no key: "
            f"{KEY}.judge.api_key_env=null"
        )
    _check_group(config)
    _check_other_rewards(config)
    _check_dropping(config, wanted)


def prepare(config: DictConfig) -> RunningJudge | None:
    """Starts the simulated judge where one is asked for; asks any other for a first judgement.

    The simulated judge ends with this process. The policy's own servers are still to come.

    Args:
        config: verl's whole configuration, in which the simulated judge's address is written down.

    Raises:
        SettingsError: the judge does not judge, and why.
    """
    wanted = tournament(config)
    if wanted is None:
        return None
    if not wanted.found_by_run:
        _ask_once(wanted)
    section = config.algorithm.verl_ext.group_reward.tournament
    plain: Any = OmegaConf.to_container(section, resolve=True)
    running = None
    with open_dict(config):
        # Written down: whether the run is on the toy shows while its paths are unresolved.
        section.judge.update(plain["judge"])
        section.simulated = plain.get("simulated")
        if wanted.address == SIMULATED:
            running = start(wanted.simulated_by())
            atexit.register(running.stop)
            section.urls = [running.url]
    return running


def _ask_once(wanted: Tournament) -> None:
    """What fails here would fail for each pair of the first step: better before the model loads."""
    # Here and not above: the client's packages are optional.
    from verl_ext.adapters.judge.probe import first_judgement

    settings = replace(wanted.judges[0], cache=None)
    try:
        said = asyncio.run(first_judgement(settings, alone=wanted.pointwise))
    except JudgeError as error:
        raise SettingsError(f"{KEY}.judge: {error}") from None
    if said.failure is not None:
        raise SettingsError(
            f"{KEY}.judge: {settings.model!r} at {settings.base_url} gave no judgement in "
            f"{said.cost.attempts} attempts ({said.failure.value}: {said.detail})"
            + HINTS.get(said.failure, "")
        )
    print(f"[verl_ext] judge {settings.model} answered in {said.cost.latency_s:.1f} s")


def _check_clients() -> None:
    for module in CLIENTS:
        if importlib.util.find_spec(module) is None:
            raise SettingsError(
                f"{KEY} needs the Python module '{module}': pip install 'verl-ext[judge]'"
            )


def _check_group(config: DictConfig) -> None:
    if config.actor_rollout_ref.rollout.n < 2:
        raise SettingsError(
            f"{KEY} compares the responses to a prompt, and there is one of each. "
            "Add: actor_rollout_ref.rollout.n=8"
        )
    name = rewarded_estimator(config)
    if name in ADVANTAGES and ADVANTAGES[name].binary_outcomes:
        raise SettingsError(
            f"'{name}' needs outcomes of 0 or 1, and {KEY} gives ranks between them. "
            "Add: algorithm.adv_estimator=verl_ext.rank"
        )


def _check_other_rewards(config: DictConfig) -> None:
    if section(config, "reference_probability") is not None:
        raise SettingsError(
            f"{KEY} and {SECTION}.reference_probability both set a response's reward. "
            f"Remove one of them: '~{SECTION}.NAME'"
        )
    refuse_scores_after_sampling(config, KEY)


def _check_dropping(config: DictConfig, wanted: Tournament) -> None:
    if wanted.on_failure == "drop_group" and config.algorithm.verl_ext.get("deterministic"):
        raise SettingsError(
            f"{KEY}.on_failure=drop_group: when the judge fails is a matter of chance, and with it "
            "which prompts are in a batch. Add: algorithm.verl_ext.deterministic=false, or "
            f"{KEY}.on_failure=void_pair {KEY}.max_dropped=null"
        )
