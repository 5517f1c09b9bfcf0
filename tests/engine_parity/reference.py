"""The same training in plain Hugging Face and torch, one row at a time, in double precision.

Nothing of verl, Megatron or verl-ext: no padding, no micro-batches, no packing, no shards.
"""

import tempfile

import torch
from engine_parity.cases import LEARNING_RATE, UPDATES
from safetensors.torch import load_file


def train(folder, batch, advantages, settings, *, decay_vectors):
    """Log-probs and entropy before training, then loss and gradient norm of each update.

    Args:
        settings: clip_low, clip_high, clip_c, entropy_coeff, kl_coef, max_norm, weight_decay.
        decay_vectors: whether weight decay reaches norms and biases (FSDP's AdamW: yes;
            Megatron's: no).
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
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.999))
    with torch.no_grad():
        before = [_row(model, batch, row) for row in range(len(batch))]
    losses, norms = [], []
    for _ in range(UPDATES):
        optimizer.zero_grad()
        loss = _loss(model, batch, advantages, settings)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_norm"])
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    return {
        "log_probs": [log_probs for log_probs, _ in before],
        "entropy": [entropy for _, entropy in before],
        "loss": losses,
        "grad_norm": norms,
        "weights": _as_saved(model),
    }


def _as_saved(model):
    """Weights under the names of a checkpoint: in memory the experts are one tensor."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(f"{folder}/model.safetensors")


def _row(model, batch, row):
    """Log-probs and entropies of one row's response tokens."""
    tokens = torch.cat([batch.prompts[row], batch.responses[row]])
    logits = model(input_ids=tokens[None]).logits[0, len(batch.prompts[row]) - 1 : -1]
    log_probs = logits.log_softmax(-1)
    chosen = log_probs.gather(-1, batch.responses[row][:, None])[:, 0]
    return chosen, -(log_probs.exp() * log_probs).sum(-1)


def _loss(model, batch, advantages, settings):
    """PPO's clipped loss with dual clip, minus entropy, plus k3; means over all sampled tokens."""
    total = torch.zeros((), dtype=torch.float64)
    tokens = sum(int(mask.sum()) for mask in batch.mask)
    for row in range(len(batch)):
        log_probs, entropy = _row(model, batch, row)
        mask = batch.mask[row]
        a = advantages[row, : len(mask)]
        ratio = (log_probs - batch.old_log_probs[row]).exp()
        clipped = ratio.clamp(1 - settings["clip_low"], 1 + settings["clip_high"])
        surrogate = torch.minimum(ratio * a, clipped * a)
        surrogate = torch.where(a < 0, torch.maximum(surrogate, settings["clip_c"] * a), surrogate)
        gap = batch.ref_log_probs[row] - log_probs
        k3 = gap.exp() - gap - 1
        per_token = -surrogate - settings["entropy_coeff"] * entropy + settings["kl_coef"] * k3
        total = total + per_token[mask].sum()
    return total / tokens
