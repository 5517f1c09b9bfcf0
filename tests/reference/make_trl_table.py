"""Makes trl_divergence.json: what trl's losses give on fixed logits, values and gradients.

    pip install trl==1.16.0
    python tests/reference/make_trl_table.py

trl's beta is our α, as it stands: its beta = 0 is KL(teacher‖student), its beta = 1 is
KL(student‖teacher), and between them both weigh M = (1 − β)·student + β·teacher alike. Its
``generalized_jsd_loss`` (GKD, GOLD) is ``support="full"``; the top-k losses of its SDPO trainer are
``support="student"`` with and without the tail. trl is no dependency: the tests read the record.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from trl.experimental.gkd.gkd_trainer import GKDTrainer
from trl.experimental.gold.gold_trainer import GOLDTrainer
from trl.experimental.sdpo.loss_utils import compute_topk_self_distillation_loss

ALPHAS = (0.0, 0.1, 0.5, 0.9, 1.0)
TOKENS, VOCABULARY, TOP_K = 3, 9, 4


def cases():
    for alpha in ALPHAS:
        for trainer in (GKDTrainer, GOLDTrainer):
            yield (
                f"{trainer.__name__}.generalized_jsd_loss beta={alpha}",
                {"alpha": alpha, "support": "full"},
                # Of each token's V terms they return the sum only through a reduction.
                lambda student, teacher, trainer=trainer, alpha=alpha: trainer.generalized_jsd_loss(
                    student, teacher, beta=alpha, reduction="none"
                ).sum(-1),
            )
        for tail in (True, False):
            yield (
                f"sdpo top-k tail={tail} alpha={alpha}",
                {"alpha": alpha, "support": "student", "top_k": TOP_K, "tail": tail},
                lambda student, teacher, alpha=alpha, tail=tail: (
                    compute_topk_self_distillation_loss(
                        student,
                        teacher,
                        distillation_topk=TOP_K,
                        distillation_alpha=alpha,
                        distillation_add_tail=tail,
                    )
                ),
            )


def main():
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(
        2, TOKENS, VOCABULARY, dtype=torch.float64, generator=generator
    )
    table = []
    for name, ours, loss in cases():
        leaf = student.clone().requires_grad_()
        per_token = loss(leaf, teacher)
        per_token.sum().backward()
        table.append(
            {
                "id": name,
                "ours": ours,
                "per_token": per_token.tolist(),
                "gradient": leaf.grad.tolist(),
            }
        )
    record = {
        "made_by": "tests/reference/make_trl_table.py",
        "trl": version("trl"),
        "torch": version("torch"),
        "student_logits": student.tolist(),
        "teacher_logits": teacher.tolist(),
        "cases": table,
    }
    path = Path(__file__).with_name("trl_divergence.json")
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{len(table)} cases with trl {record['trl']} to {path.name}")


if __name__ == "__main__":
    main()
