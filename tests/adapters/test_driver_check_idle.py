"""Settings that would do nothing, or something else, beside the rest of a configuration."""

import pytest
import verl  # loads the plugin  # noqa: F401

from verl_ext.adapters import driver_check
from verl_ext.adapters.errors import SettingsError

SDPO = ("+paper=sdpo", "+scale=cpu")
ALONE = "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean"
TASK = "algorithm.verl_ext.advantage.task_estimator=grpo"
DROP = "+algorithm.verl_ext.teacher.on_teacher_failure=drop"
SERVED = (
    "+paper=opd", "+scale=cpu", "algorithm.verl_ext.teacher.source=server",
    "algorithm.verl_ext.teacher.path=null", "distillation.enabled=true",
    "distillation.teacher_models.teacher_model.model_path=m",
)  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+paper=[sdpo,aepo]", "+scale=cpu"], r"masks\.aepo goes by the advantages, .*all 0"),
        ([*SDPO, "+algorithm.verl_ext.masks.zero_advantage={}"], r"'~.*masks\.zero_advantage'"),
        ([*SDPO, ALONE], r"leaves out rows without a hint.*loss_agg_mode=token-mean"),
        ([*SERVED, DROP, ALONE], r"on_teacher_failure=drop leaves out rows"),
        (["+paper=aepo", "+scale=cpu", "algorithm.verl_ext.masks.aepo=null"], r"aepo is null"),
        (
            ["+paper=task_balanced", "+scale=cpu", "algorithm.verl_ext.sampler.task_balanced=null"],
            r"'~algorithm\.verl_ext\.sampler\.task_balanced'",
        ),
    ],
)
def test_what_would_do_nothing_or_something_else_beside_the_rest_is_refused(
    verl_config, overrides, message
):
    with pytest.raises(SettingsError, match=message):
        driver_check.check(verl_config(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["+paper=[sdpo,aepo]", "+scale=cpu", TASK],
        [*SDPO, "+algorithm.verl_ext.masks.zero_advantage={}", TASK],
        [*SDPO, ALONE, TASK],
        [*SDPO, ALONE, "algorithm.verl_ext.divergence.normalisation=micro_batch_mean"],
        [*SERVED, ALONE],
    ],
)
def test_the_same_is_accepted_where_it_has_an_effect(verl_config, overrides):
    driver_check.check(verl_config(*overrides))
