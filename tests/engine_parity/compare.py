"""How far an engine's training is from the reference's, one number a quantity."""

import torch
from safetensors.torch import load_file


def errors(results, reference, folder):
    """The largest error of each quantity over rows, updates, ranks and tensors.

    Args:
        results: what :func:`engines.train` returned on each rank.
        reference: what :func:`reference.train` returned.
        folder: of the model before training.

    Returns:
        log_probs, entropy: absolute, nats, before training; loss: of each update, over its first
        value; grad_norm: of each update, relative; gradient: of the first update, norm of the
        difference relative to the norm; update: norm of the difference between the
        changes of a tensor over all updates, relative to the norm of the reference's change.

    Raises:
        ValueError: rows are missing, or weights are there that the model has not.
    """
    found = {"log_probs": 0.0, "entropy": 0.0, "loss": 0.0, "grad_norm": 0.0}
    seen = []
    for result in results:
        if not result or "log_probs" not in result:
            continue
        seen += result["rows"]
        for name in ("log_probs", "entropy"):
            for place, row in enumerate(result["rows"]):
                gap = (result[name][place].double() - reference[name][row]).abs().max().item()
                found[name] = larger(found[name], gap)
        for name in ("loss", "grad_norm"):
            for actual, wanted in zip(result[name], reference[name], strict=True):
                scale = reference["loss"][0] if name == "loss" else wanted
                found[name] = larger(found[name], abs((actual - wanted) / scale))
    if sorted(seen) != list(range(len(reference["log_probs"]))):
        raise ValueError(f"rows {sorted(seen)} came back")
    (whole,) = (result for result in results if result and "weights" in result)
    found["gradient"] = gradient_error(whole["gradient"], reference["gradient"])
    return found | {"update": update_error(whole["weights"], reference["weights"], folder)}


def gradient_error(gradient, wanted):
    """Norm of the difference over all tensors, relative to the norm of what is wanted."""
    require_names(gradient, wanted)
    gaps = [gradient[name].double() - value.double() for name, value in wanted.items()]
    return (norm(gaps) / norm(wanted.values())).item()


def norm(tensors):
    return torch.stack([tensor.double().norm() for tensor in tensors]).norm()


def require_names(found, wanted):
    # Tied embeddings are saved once; FSDP hands them out under both names.
    if set(found) - {"lm_head.weight"} != set(wanted) - {"lm_head.weight"}:
        raise ValueError(f"weights: {set(found) ^ set(wanted)}")


def update_error(weights, wanted, folder):
    """See :func:`errors`."""
    before = load_file(f"{folder}/model.safetensors")
    require_names(weights, before)
    worst = 0.0
    for name, start in before.items():
        change = wanted[name].double() - start.double()
        gap = weights[name].double() - wanted[name].double()
        worst = larger(worst, (gap.norm() / change.norm()).item())
    return worst


def larger(worst, error):
    """The larger one; not a number wins."""
    return error if not error <= worst else worst
