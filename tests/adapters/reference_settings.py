"""Tags, weights and the configuration of a run with the reference-probability reward."""

from omegaconf import OmegaConf

TAGS = {"think": ["[", "]"], "answer": ["{", "}"]}


def config(**section):
    section = {"tags": TAGS, "repetition": None} | section
    return OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": "grpo",
                "verl_ext": {"group_reward": {"reference_probability": section}},
            },
            "trainer": {"v1": {"trainer_mode": "sync"}},
            "actor_rollout_ref": {
                "rollout": {"prompt_length": 20, "response_length": 30, "max_model_len": None}
            },
        }
    )


MIXED = {
    "default": {"probability": 0.5, "verifier": 2.0},
    "maths": {"probability": 0.0, "verifier": 1.0},
}
