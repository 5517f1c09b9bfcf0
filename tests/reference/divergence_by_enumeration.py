"""The divergence of one token and its gradient, retold slowly: plain floats, loops, probabilities.

Nothing is shared with the kernel: it works with log-probabilities and knows the gradient in closed
form; here the derivatives by probabilities are multiplied with the whole Jacobian of the softmax.
"""

import math

HELD_MASS = math.exp(-1e-7)  # the support never counts as more than this


def softmax(logits):
    peak = max(logits)
    weights = [math.exp(logit - peak) for logit in logits]
    return [weight / math.fsum(weights) for weight in weights]


def chosen(student_logits, teacher_logits, support, top_k):
    """The ids of the support; of equal logits the first."""
    if support == "full":
        return list(range(len(student_logits)))
    logits = student_logits if support == "student" else teacher_logits
    return sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:top_k]


def categories(probabilities, ids, tail):
    """Probabilities of the categories, and row by row how each moves with each logit."""
    size = len(probabilities)
    jacobian = [
        [p * ((u == v) - probabilities[v]) for v in range(size)]
        for u, p in enumerate(probabilities)
    ]
    kept = [probabilities[u] for u in ids]
    moves = [jacobian[u] for u in ids]
    if tail is None:
        return kept, moves
    mass = math.fsum(kept)
    if not tail:
        mass_moves = [math.fsum(row[v] for row in moves) for v in range(size)]
        moves = [
            [(row[v] - p / mass * mass_moves[v]) / mass for v in range(size)]
            for p, row in zip(kept, moves, strict=True)
        ]
        return [p / mass for p in kept], moves
    outside = [u for u in range(size) if u not in ids]
    rest = math.fsum(probabilities[u] for u in outside)
    rest_moves = [math.fsum(jacobian[u][v] for u in outside) for v in range(size)]
    if rest <= 1 - HELD_MASS:
        rest, rest_moves = 1 - HELD_MASS, [0.0] * size
    return [*kept, rest], [*moves, rest_moves]


def one_category(p, q, alpha):
    """Its part of the divergence, and the derivative by p."""
    if alpha == 0:
        return (q * math.log(q / p), -q / p) if q else (0.0, 0.0)
    if alpha == 1:
        return (p * math.log(p / q), math.log(p / q) + 1) if p else (0.0, 0.0)
    m = (1 - alpha) * p + alpha * q
    value = derivative = 0.0
    if p:
        value += (1 - alpha) * p * math.log(p / m)
        derivative += (1 - alpha) * (math.log(p / m) + 1 - p * (1 - alpha) / m)
    if q:
        value += alpha * q * math.log(q / m)
        derivative -= alpha * q * (1 - alpha) / m
    return value, derivative


def divergence(student_logits, teacher_logits, *, alpha, support, top_k=None, tail=True):
    """The value, and its gradient by the student's logits."""
    ids = chosen(student_logits, teacher_logits, support, top_k)
    tail = None if support == "full" else tail
    student, moves = categories(softmax(student_logits), ids, tail)
    teacher, _ = categories(softmax(teacher_logits), ids, tail)
    parts = [one_category(p, q, alpha) for p, q in zip(student, teacher, strict=True)]
    gradient = [
        math.fsum(part[1] * row[v] for part, row in zip(parts, moves, strict=True))
        for v in range(len(student_logits))
    ]
    return math.fsum(part[0] for part in parts), gradient
