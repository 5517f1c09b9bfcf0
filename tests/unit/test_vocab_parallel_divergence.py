"""Split vocabularies over gloo processes against the dense result."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from verl_ext.losses.divergence import TeacherLogits, TeacherTopK, VocabShard, token_terms

TOKENS, VOCABULARY, TOP_K = 9, 24, 4
ROWS = torch.tensor([0, 1, 2, 4, 5, 6, 8])
LABELS = torch.tensor([0, 23, 5, 6, 11, 12, 17])
KINDS = [
    {"alpha": alpha, "support": support, "top_k": TOP_K, "tail": tail}
    for alpha in (0.0, 0.5, 1.0)
    for support, tail in (
        ("student", True), ("student", False), ("teacher", True), ("teacher", False), ("full", True)
    )
]  # fmt: skip


def logits():
    """Whole words, so that places in the support are contested across shards; and hard cases."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, TOKENS, VOCABULARY, generator=generator).double()
    student[4:], teacher[4:] = student[4:].round(), teacher[4:].round()
    student[0, :6] += 20  # all of the support in the first shard, of two and of four
    teacher[0, :6] += 20
    student[:, 21:], teacher[:, 21:] = -torch.inf, -torch.inf  # padding in the last shard alone
    student[2, 12:] = -torch.inf  # shards that hold nothing at all
    student[1, 23] = teacher[1, 23] = 0  # a label there
    return student, teacher


def cases(student, teacher):
    """Every kind with the teacher's logits, and served teachers."""
    for kind in KINDS:
        yield TeacherLogits(teacher), kind
    log_probs, ids = logits()[1].log_softmax(-1)[ROWS].topk(TOP_K, dim=-1)
    for kind in KINDS:
        if kind["support"] == "teacher":
            yield TeacherTopK(ids, log_probs), kind


def results(vocab, shard):
    """All terms and the gradient of the logits, case by case."""
    student, teacher = (side[:, shard].contiguous() for side in logits())
    found = []
    for given, kind in cases(student, teacher):
        leaf = student.clone().requires_grad_()
        terms = token_terms(leaf, LABELS, given, rows=ROWS, vocab=vocab, chunk_tokens=2, **kind)
        # An infinite divergence counts for nothing here, as a caller would have it.
        finite = terms.divergence.isfinite()
        weights = torch.linspace(-1, 1, len(ROWS)).double()
        loss = (weights * terms.log_probs).sum() + terms.divergence[finite].sum()
        found.append(([term.detach() for term in terms], torch.autograd.grad(loss, leaf)[0]))
    return found


def process(rank, shards, folder):
    """What each process does: this file is its program, see the end."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=shards)
    size = VOCABULARY // shards
    vocab = VocabShard(dist.group.WORLD, rank * size)
    torch.save(results(vocab, slice(rank * size, (rank + 1) * size)), f"{folder}/{rank}.pt")
    elsewhere = VocabShard(dist.group.WORLD, rank * size + 1)
    teacher = TeacherLogits(torch.zeros(2, size))
    with pytest.raises(ValueError, match=f"vocab.start must be {rank * size}"):
        token_terms(torch.zeros(2, size), None, teacher, vocab=elsewhere, **KINDS[0])
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def dense():
    return results(None, slice(None))


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_give_the_dense_values_and_gradients(shards, tmp_path, dense):
    arguments = [str(shards), str(tmp_path)]
    running = [
        subprocess.Popen([sys.executable, __file__, str(rank), *arguments], stderr=subprocess.PIPE)
        for rank in range(shards)
    ]
    try:
        for child in running:
            _, errors = child.communicate(timeout=180)
            assert child.returncode == 0, errors.decode()
    finally:
        for child in running:
            child.kill()
    by_rank = [torch.load(tmp_path / f"{rank}.pt") for rank in range(shards)]
    assert len(dense) == len(KINDS) + 6
    for case, (terms, gradient) in enumerate(dense):
        for rank in range(shards):
            for value, expected in zip(by_rank[rank][case][0], terms, strict=True):
                torch.testing.assert_close(value, expected, atol=1e-12, rtol=1e-12, equal_nan=True)
        whole = torch.cat([by_rank[rank][case][1] for rank in range(shards)], -1)
        assert gradient.isfinite().all()
        torch.testing.assert_close(whole, gradient, atol=1e-12, rtol=1e-12)


def test_the_cases_hold_what_they_are_for(dense):
    student, _ = logits()
    top = student.topk(TOP_K, dim=-1).indices
    assert (top[0] < 6).all()  # three shards of four hold none of the support
    assert student[2, 12:].isinf().all()
    assert not student[:, 21:23].isfinite().any()
    # Contested places: the K-th and the next are equal in some token.
    ordered = student[4:].sort(dim=-1, descending=True).values
    assert (ordered[:, TOP_K - 1] == ordered[:, TOP_K]).any()
    assert all(terms[1].isfinite().any() for terms, _ in dense)


if __name__ == "__main__":
    process(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
