"""The configuration of a run with a teacher, as far as the trainer's stages read it."""

from omegaconf import OmegaConf


def config(teacher=None, divergence=None, estimator="verl_ext.opd", rollout=None, **advantage):
    ours = {"advantage": advantage} if advantage else {}
    if teacher is not None:
        ours["teacher"] = {"source": "ref", "path": "/models/teacher"} | teacher
    if divergence is not None:
        ours["divergence"] = divergence
    return OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": estimator,
                "use_kl_in_reward": False,
                "gamma": 1.0,
                "lam": 1.0,
                "verl_ext": ours,
            },
            "actor_rollout_ref": {
                "actor": {"ppo_mini_batch_size": 1},
                "rollout": {"n": 1, **(rollout or {})},
            },
        }
    )
