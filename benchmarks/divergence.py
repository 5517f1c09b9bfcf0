"""The divergence kernel against verl's top-k losses: bytes kept for backward, and time.

    python benchmarks/divergence.py                          # on this machine, a minute or two
    python benchmarks/divergence.py --device cuda --large    # 65,536 tokens x 152,064, one GPU

Every job computes the log-probabilities of the labels and a divergence per token, and their
gradient. verl's are its own two functions, called as its FSDP engine calls them; its top-k loss is
forward KL on the teacher's tokens without a tail. `plain` is what one writes with log_softmax.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
from bars import Bar, verdict
from verl.trainer.distillation.fsdp.losses import compute_forward_kl_topk
from verl.utils.torch_functional import logprobs_from_logits

from verl_ext.losses.divergence import TeacherLogits, TeacherTopK, token_terms

SIZES = {
    "cpu": [(256, 32768, 64), (1024, 32768, 64), (256, 152064, 64), (1024, 32768, 8)],
    "cuda": [(4096, 32768, 64), (8192, 152064, 64), (8192, 152064, 8)],
}
LARGE = (65536, 152064, 64)
MOST_MEMORY, MOST_TIME = 0.02, 1.3
Job = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def ours(labels: torch.Tensor, teacher, **settings) -> Job:
    def job(logits):
        terms = token_terms(logits, labels, teacher, tail=True, **settings)
        return terms.log_probs, terms.divergence

    return job


def verl(labels: torch.Tensor, served: TeacherTopK, chunked: bool) -> Job:
    loss = SimpleNamespace(use_chunked_topk=chunked, log_prob_min_clamp=None)
    offsets = torch.tensor([0, len(labels)], device=labels.device)
    log_probs, ids = (
        torch.nested.nested_tensor_from_jagged(values, offsets)
        for values in (served.log_probs, served.ids)
    )

    def job(logits):
        losses = compute_forward_kl_topk(
            logits.unsqueeze(0), log_probs, ids, SimpleNamespace(distillation_loss=loss), "thd"
        )
        picked = logprobs_from_logits(logits, labels, inplace_backward=False)
        return picked, losses["distillation_losses"].squeeze(0)

    return job


def plain(labels: torch.Tensor, served: TeacherTopK) -> Job:
    def job(logits):
        log_p = logits.float().log_softmax(-1)
        student = log_p.gather(-1, served.ids)
        tails = [
            torch.log(-torch.expm1(side.logsumexp(-1, keepdim=True).clamp(max=-1e-7)))
            for side in (student, served.log_probs)
        ]
        log_q = torch.cat([served.log_probs, tails[1]], -1)
        forward_kl = (log_q.exp() * (log_q - torch.cat([student, tails[0]], -1))).sum(-1)
        return log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1), forward_kl

    return job


def plain_full(labels: torch.Tensor, teacher: TeacherLogits) -> Job:
    def job(logits):
        log_p, log_q = logits.float().log_softmax(-1), teacher.logits.float().log_softmax(-1)
        mixture = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
        halves = (log_p.exp() * (log_p - mixture), log_q.exp() * (log_q - mixture))
        return log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1), sum(halves).sum(-1) / 2

    return job


def jobs(size: tuple[int, int, int], logits: torch.Tensor) -> tuple[dict[str, Job], list]:
    """Every job by name, and the tensors it is given, which no job is charged for."""
    tokens, vocabulary, top_k = size
    generator = torch.Generator(logits.device).manual_seed(1)
    place = {"device": logits.device, "generator": generator}
    labels = torch.randint(vocabulary, (tokens,), **place)
    teacher = TeacherLogits(torch.empty_like(logits))
    teacher.logits.copy_(logits.detach()).add_(0.5)
    teacher.logits[:, ::7] += 1  # another distribution, near the student's, without another buffer
    values, ids = teacher.logits.topk(top_k, dim=-1)
    log_total = torch.cat([part.float().logsumexp(-1) for part in teacher.logits.split(16)])
    served = TeacherTopK(ids, values.float() - log_total.unsqueeze(-1))
    named = {
        "verl default": verl(labels, served, chunked=False),
        "verl chunked": verl(labels, served, chunked=True),
        "plain": plain(labels, served),
        "ours, served top-k": ours(labels, served, alpha=0.0, support="teacher"),
        "ours, teacher's K": ours(labels, teacher, alpha=0.0, support="teacher", top_k=top_k),
        "ours, student's K": ours(labels, teacher, alpha=0.5, support="student", top_k=top_k),
        "ours, full": ours(labels, teacher, alpha=0.5, support="full"),
        "plain, full": plain_full(labels, teacher),
    }
    return named, [logits, labels, teacher.logits, served.ids, served.log_probs]


def tensors_of(node) -> Iterator[torch.Tensor]:
    """What custom functions keep as attributes, in a whole graph."""
    seen, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [edge for edge, _ in node.next_functions]
        for value in getattr(node, "__dict__", {}).values():
            found = [value, *getattr(value, "__dict__", {}).values()]
            yield from (item for item in found if isinstance(item, torch.Tensor))


def kept_bytes(job: Job, logits: torch.Tensor, given: list[torch.Tensor]) -> int:
    """Bytes between forward and backward beyond what the job was given; each storage once."""
    storages: dict[int, int] = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = job(logits)
    for output in outputs:
        for tensor in tensors_of(output.grad_fn):
            note(tensor)
    for tensor in given:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def once(job: Job, logits: torch.Tensor) -> tuple[float, float]:
    """Seconds of a forward and backward pass, and on CUDA the peak of bytes above the start."""
    cuda = logits.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    log_probs, losses = job(logits)
    torch.autograd.grad((losses.float() - log_probs.float()).sum(), logits)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated() - before if cuda else float("nan")


def measured(size: tuple[int, int, int], dtype: torch.dtype, device: str, repeats: int) -> list:
    """Rows of name, kept bytes over the logits', median seconds, their range, peak over logits."""
    tokens, vocabulary, _ = size
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.empty(tokens, vocabulary, dtype=dtype, device=device)
    for part in logits.split(1024):
        part.normal_(0, 3, generator=generator)
    logits.requires_grad_()
    named, given = jobs(size, logits)
    whole = logits.nbytes
    kept, times, peaks = {}, {name: [] for name in named}, {}
    for name, job in list(named.items()):
        try:
            kept[name] = kept_bytes(job, logits, given) / whole
            once(job, logits)  # the first call pays for allocation
        except torch.OutOfMemoryError:
            print(f"{name:<20} does not fit into the device's memory")
            del named[name]
            torch.cuda.empty_cache()
    for _ in range(repeats):
        for name, job in named.items():  # interleaved: all see the same machine
            seconds, peak = once(job, logits)
            times[name].append(seconds)
            peaks[name] = peak / whole
    return [
        (name, kept[name], statistics.median(times[name]), times[name], peaks[name])
        for name in named
    ]


def report(size: tuple[int, int, int], rows: list, dtype: torch.dtype) -> list[Bar]:
    """Prints a table; ours against the bars, of which that for memory is for bfloat16."""
    title = f"{size[0]} tokens x {size[1]}, K = {size[2]}"
    print(f"\n{title}, {str(dtype).removeprefix('torch.')}")
    medians = {name: median for name, _, median, *_ in rows}
    base = medians.get("verl default", float("nan"))
    print(f"{'':<20} {'kept/logits':>11} {'median':>10} {'best':>10} {'/verl':>7} {'peak':>6}")
    for name, kept, median, times, peak in rows:
        print(
            f"{name:<20} {kept:>11.4f} {median * 1e3:>7.0f} ms {min(times) * 1e3:>7.0f} ms "
            f"{median / base:>7.2f} {peak:>6.2f}"
        )
    most = max(kept for name, kept, *_ in rows if name.startswith("ours"))
    slower = medians["ours, served top-k"] / base
    command = "benchmarks/divergence.py"
    time_bar = Bar(f"divergence ({title}), time over verl's", slower, MOST_TIME, command, False)
    if dtype != torch.bfloat16:
        return [time_bar]
    what = f"divergence ({title}), bytes kept for backward over the logits'"
    return [Bar(what, most, MOST_MEMORY, command), time_bar]


def bars(
    sizes: list[tuple[int, int, int]], dtype: torch.dtype, device: str, repeats: int
) -> list[Bar]:
    """Prints a table for each size."""
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(
        f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}, {repeats} "
        "repeats interleaved; kept and peak over the logits' bytes (peak: above what was given)"
    )
    return [
        bar for size in sizes for bar in report(size, measured(size, dtype, device, repeats), dtype)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--size", type=int, nargs=3, metavar=("TOKENS", "VOCABULARY", "K"))
    parser.add_argument("--large", action="store_true", help=f"{LARGE}, for a GPU")
    given = parser.parse_args()
    device = given.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = SIZES[device]
    if given.size or given.large:
        sizes = [tuple(given.size)] if given.size else [LARGE]
    return verdict(bars(sizes, getattr(torch, given.dtype), device, given.repeats))


if __name__ == "__main__":
    raise SystemExit(main())
