"""The same training in plain Hugging Face and torch, one row at a time, in double precision.

Nothing of verl, Megatron or verl-ext: no padding, no micro-batches, no packing, no shards.
"""

import tempfile
from dataclasses import replace

import torch
from engine_parity import gradients
from engine_parity.cases import LEARNING_RATE, UPDATES
from safetensors.torch import load_file


def train(
    folder, batch, advantages, settings, *, decay_vectors, divergence=None, lessons=None, teach=None
):
    """Log-probs and entropy before training, loss and gradient norm of each update, first gradient.

    Args:
        settings: clip_low, clip_high, clip_c, entropy_coeff, kl_coef, max_norm, weight_decay,
            betas.
        decay_vectors: whether weight decay reaches norms and biases (FSDP's AdamW: yes;
            Megatron's: no).
        divergence: coef, alpha, support, top_k and tail, from the model in ``folder``_teacher.
        lessons: a prompt or None for each row; then the divergence is from a teacher who reads
            these prompts.
        teach: (batch, row) -> (response, vocabulary) log-probs of that teacher.
    """
    from transformers import AutoModelForCausalLM

    # Experts one by one: the grouped kernel has no double precision.
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, experts_implementation="eager"
    )
    model.train()
    vectors = [p for p in model.parameters() if p.dim() == 1]
    matrices = [p for p in model.parameters() if p.dim() > 1]
    decay = settings["weight_decay"]
    groups = [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": decay if decay_vectors else 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=settings["betas"])
    distill = None
    if lessons is not None:
        distill = SelfDistillation(model, batch, lessons, teach, divergence)
    elif divergence:
        distill = Distillation(f"{folder}_teacher", divergence)
    with torch.no_grad():
        before = [_row(_distribution(model, batch, row), batch, row) for row in range(len(batch))]
    losses, norms, gradient = [], [], {}
    for _ in range(UPDATES):
        optimizer.zero_grad()
        loss = _loss(model, batch, advantages, settings, distill)
        loss.backward()
        gradient = gradient or _gradient(model)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_norm"])
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    return {
        "log_probs": [log_probs for log_probs, _ in before],
        "entropy": [entropy for _, entropy in before],
        "loss": losses,
        "grad_norm": norms,
        "gradient": gradient,
        "weights": _as_saved(model),
    }


def _gradient(model):
    parameters = list(model.parameters())
    with gradients.in_place_of(parameters, [weight.grad for weight in parameters]):
        return _as_saved(model)


def _as_saved(model):
    """Weights under the names of a checkpoint: in memory the experts are one tensor."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(f"{folder}/model.safetensors")


class Distillation:
    """The divergence from a teacher, token by token, over explicit lists of categories."""

    def __init__(self, folder, settings):
        from transformers import AutoModelForCausalLM

        self.teacher = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        self.settings = settings

    def of_row(self, student, batch, row):
        """(response,) coef * divergence of the student's (response, vocabulary) log-probs."""
        with torch.no_grad():
            teacher = _distribution(self.teacher, batch, row)
        pairs = zip(student, teacher, strict=True)
        return self.settings["coef"] * torch.stack([self.of_token(p, q) for p, q in pairs])

    def of_token(self, log_p, log_q, ids=None):
        top_k, support = self.settings["top_k"], self.settings["support"]
        if support != "full":
            by = log_p.detach() if support == "student" else log_q
            ids = by.argsort(descending=True)[:top_k] if ids is None else ids
            rest = [i for i in range(len(by)) if i not in ids.tolist()]
            log_p, log_q = (
                torch.cat([x[ids], x[rest].logsumexp(-1, keepdim=True)])
                if self.settings["tail"]
                else x[ids].log_softmax(-1)
                for x in (log_p, log_q)
            )
        p, q = log_p.exp(), log_q.exp()
        if self.settings["alpha"] == "reverse_kl":
            return (p * (log_p - log_q)).sum()
        if self.settings["alpha"] == "forward_kl":
            return (q * (log_q - log_p)).sum()
        middle = ((p + q) / 2).log()
        return ((p * (log_p - middle)).sum() + (q * (log_q - middle)).sum()) / 2


class SelfDistillation(Distillation):
    """From a teacher who reads other prompts, on the tokens the model finds likely at first."""

    def __init__(self, model, batch, lessons, teach, settings):
        self.settings = settings
        prompted = replace(batch, prompts=lessons)
        with torch.no_grad():
            self.known = [
                None if lesson is None else (_distribution(model, batch, row), teach(prompted, row))
                for row, lesson in enumerate(lessons)
            ]

    def of_row(self, student, batch, row):
        if self.known[row] is None:
            return torch.zeros(len(student), dtype=torch.float64)
        before, teacher = self.known[row]
        supports = before.argsort(-1, descending=True)[:, : self.settings["top_k"]]
        tokens = zip(student, teacher, supports, strict=True)
        values = torch.stack([self.of_token(p, q, ids) for p, q, ids in tokens])
        moved = _row(student.detach(), batch, row)[0] - batch.old_log_probs[row]
        return self.settings["coef"] * moved.exp().clamp(max=self.settings["clip"]) * values


def _distribution(model, batch, row):
    """(response, vocabulary) log-probs of one row."""
    tokens = torch.cat([batch.prompts[row], batch.responses[row]])
    logits = model(input_ids=tokens[None]).logits[0, len(batch.prompts[row]) - 1 : -1]
    return logits.log_softmax(-1)


def _row(log_probs, batch, row):
    """Log-probs and entropies of one row's response tokens, of (response, vocabulary)."""
    chosen = log_probs.gather(-1, batch.responses[row][:, None])[:, 0]
    return chosen, -(log_probs.exp() * log_probs).sum(-1)


def _loss(model, batch, advantages, settings, distill):
    """PPO's clipped loss with dual clip, minus entropy, plus k3; means over all sampled tokens."""
    total = torch.zeros((), dtype=torch.float64)
    tokens = sum(int(mask.sum()) for mask in batch.mask)
    for row in range(len(batch)):
        # Once for all terms: transformers' norms are float32 whatever the model is, so gradients of
        # two passes, rounded one by one, differ from those of one by 2e-8.
        distribution = _distribution(model, batch, row)
        log_probs, entropy = _row(distribution, batch, row)
        mask = batch.mask[row]
        a = advantages[row, : len(mask)]
        ratio = (log_probs - batch.old_log_probs[row]).exp()
        clipped = ratio.clamp(1 - settings["clip_low"], 1 + settings["clip_high"])
        surrogate = torch.minimum(ratio * a, clipped * a)
        surrogate = torch.where(a < 0, torch.maximum(surrogate, settings["clip_c"] * a), surrogate)
        gap = batch.ref_log_probs[row] - log_probs
        k3 = (gap.exp() - gap - 1).clamp(-10, 10)  # verl clamps it
        per_token = -surrogate - settings["entropy_coeff"] * entropy + settings["kl_coef"] * k3
        if distill:
            per_token = per_token + distill.of_row(distribution, batch, row)
        total = total + per_token[mask].sum()
    return total / tokens
