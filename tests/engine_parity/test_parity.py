"""Log-probs, entropy, loss, gradient norm and weights: one reference, every engine and layout.

The reference is plain Hugging Face in double precision, so a tolerance is the error of an engine's
single precision and nothing else. One float32 rounding is 6e-8, and sums of a few hundred of them
in different orders come to about 1e-6; `benchmarks/parity_table.py` prints what each layout has.

==================  ============  =========================================================
what                tolerance     why
==================  ============  =========================================================
log-probs, entropy  1e-5          absolute, nats
gradient            1e-5          of the first update, norm of the difference relative to the norm
gradient norm       1e-5          relative, of each update
loss                1e-5          of each update, relative to its first value: later ones are small
                                  differences of terms of that size
update of weights   5e-3          relative norm of each tensor's change. Adam divides by the root
                                  of the squared gradient, so entries whose gradient is rounding
                                  noise still move by a whole learning rate, in a random direction
==================  ============  =========================================================
"""

import pytest
import torch
from engine_parity import cases, compare, engines
from engine_parity.layouts import (
    EXPERT_LAYOUTS,
    INTERLEAVED,
    LAYOUTS,
    MEGATRON,
    MICRO_BATCHES,
    PADDED,
    UNEVEN,
)

TOLERANCES = {
    "log_probs": 1e-5,
    "entropy": 1e-5,
    "loss": 1e-5,
    "gradient": 1e-5,
    "grad_norm": 1e-5,
    "update": 5e-3,
}


# Where logits are cut in a way of their own; with pipeline stages a reference teacher is refused.
LOGIT_LAYOUTS = ("fsdp", "fsdp_dp2", "megatron", "tp2", "tp2_unpacked", "cp2", "megatron_dp2")
# A method that gives the engines nothing but advantages and masks goes the way of w_reinforce
# there: pipeline stages are a cover, as test_invariance.py has it on all else; the others are for
# the whole table.
COVER = ("pp2",)
FIRST = "w_reinforce"


def mark(method, layout, row):
    covers = row.divergence or row.overrides or method == FIRST or layout in COVER
    return pytest.param(method, layout, marks=() if covers else pytest.mark.wide)


ROWS = [
    mark(method, layout, row)
    for method, row in cases.METHODS.items()
    for layout in (LOGIT_LAYOUTS if row.divergence else LAYOUTS)
]


@pytest.mark.parametrize(("method", "layout"), ROWS)
def test_every_method_trains_alike_in_every_layout(ranks, model_folder, expected, method, layout):
    check(ranks, model_folder, expected, LAYOUTS[layout], method=method)


CUTS = [("rows_of_two", layout) for layout in LAYOUTS] + [
    (cut, layout)
    for cut in ("rows_of_one", "by_tokens")
    for layout in ("fsdp", "tp2", "pp2", "cp2")
]


@pytest.mark.parametrize(("cut", "layout"), CUTS)
def test_micro_batches_change_nothing(ranks, model_folder, expected, cut, layout):
    check(ranks, model_folder, expected, LAYOUTS[layout], overrides=MICRO_BATCHES[cut])


@pytest.mark.parametrize("layout", PADDED)
def test_padding_changes_nothing(ranks, model_folder, expected, layout):
    check(ranks, model_folder, expected, LAYOUTS[layout], overrides=PADDED[layout])


@pytest.mark.parametrize("layout", ["fsdp", "megatron", "tp2", "pp2"])
def test_tied_embeddings_and_biases(ranks, model_folder, expected, layout):
    check(ranks, model_folder, expected, LAYOUTS[layout], kind="qwen2_tied")


@pytest.mark.parametrize("cut", ["rows_of_two", "by_tokens"])
def test_interleaved_pipeline_stages(ranks, model_folder, expected, cut):
    check(
        ranks,
        model_folder,
        expected,
        INTERLEAVED,
        kind="qwen3_deep",
        overrides=MICRO_BATCHES[cut],
    )


def test_more_ranks_than_key_value_heads(ranks, model_folder, expected):
    check(ranks, model_folder, expected, LAYOUTS["tp2"], kind="qwen3_one_kv_head")


def test_pipeline_stages_of_different_length(ranks, model_folder, expected):
    """What the driver's check tells a user of the toy model, with its three layers, to add."""
    check(ranks, model_folder, expected, UNEVEN, kind="qwen3_odd")


@pytest.mark.parametrize("layout", EXPERT_LAYOUTS)
def test_mixture_of_experts(ranks, model_folder, expected, layout):
    check(ranks, model_folder, expected, EXPERT_LAYOUTS[layout], kind="qwen3_moe")


@pytest.mark.parametrize(
    ("method", "layout"),
    [
        mark(method, layout, row)
        for method, row in cases.METHODS.items()
        for layout in ("fsdp", "fsdp_dp2")
    ],
)
def test_in_double_precision_nothing_is_left_of_the_difference(
    ranks, model_folder, expected, method, layout
):
    """On FSDP alone: Megatron has no double precision, see test_invariance.py."""
    engine, size, _ = LAYOUTS[layout]
    row = cases.METHODS[method]
    batch, advantages = row.prepare(cases.make_batch())
    config = engines.compose(row, engine, MICRO_BATCHES["by_tokens"])
    results = ranks(size).run(
        engines.train_in_double_precision, config, model_folder("qwen3"), batch, advantages
    )
    reference = expected(method, "qwen3", decay_vectors=True)
    for result in filter(None, results):
        for place, index in enumerate(result["rows"]):
            exact(result["log_probs"][place], reference["log_probs"][index])
            exact(result["entropy"][place], reference["entropy"][index])
        assert result["grad_norm"] == pytest.approx(reference["grad_norm"], rel=1e-10)
    (whole,) = (result for result in results if result and "weights" in result)
    assert compare.gradient_error(whole["gradient"], reference["gradient"]) <= 1e-10
    for name, weight in whole["weights"].items():
        exact(weight, reference["weights"][name])


def exact(actual, wanted):
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-10)


def resharding(layout):
    engine, size, overrides = layout
    return engine, size, [*overrides, f"{MEGATRON}.dist_ckpt_optim_fully_reshardable=true"]


RESUMED = {
    "fsdp_dp2": (LAYOUTS["fsdp_dp2"], "qwen3"),
    "tp2": (LAYOUTS["tp2"], "qwen3"),
    "pp2": (LAYOUTS["pp2"], "qwen3"),
    "megatron_dp2": (LAYOUTS["megatron_dp2"], "qwen3"),
    "ep2": (EXPERT_LAYOUTS["ep2"], "qwen3_moe"),
    # The optimizer's state by weight, not by rank: the shards of every layer are asked for.
    "tp2_reshardable": (resharding(LAYOUTS["tp2"]), "qwen3"),
    "ep2_reshardable": (resharding(EXPERT_LAYOUTS["ep2"]), "qwen3_moe"),
}


@pytest.mark.parametrize("layout", RESUMED)
def test_training_goes_on_from_a_checkpoint_to_the_bit(ranks, model_folder, tmp_path, layout):
    (engine, size, overrides), kind = RESUMED[layout]
    method = cases.METHODS["w_reinforce"]
    batch, advantages = method.prepare(cases.make_batch())
    config = engines.compose(method, engine, overrides)
    arguments = (config, model_folder(kind), batch, advantages, str(tmp_path / "checkpoint"))
    straight = ranks(size).run(engines.save_and_go_on, *arguments)
    resumed = ranks(size).run(engines.load_and_go_on, *arguments)
    for expected, actual in zip(straight, resumed, strict=True):
        assert (expected is None) == (actual is None)
        for name in expected or ():
            assert same(expected[name], actual[name]), name


def same(expected, actual):
    if isinstance(expected, dict):
        return expected.keys() == actual.keys() and all(
            same(expected[name], actual[name]) for name in expected
        )
    if isinstance(expected, list):
        return len(expected) == len(actual) and all(map(same, expected, actual))
    return torch.equal(expected, actual) if torch.is_tensor(expected) else expected == actual


def check(
    ranks, model_folder, expected, layout, *, method="w_reinforce", kind="qwen3", overrides=()
):
    engine, size, layout_overrides = layout
    row = cases.METHODS[method]
    batch, advantages = row.prepare(cases.make_batch())
    config = engines.compose(row, engine, [*layout_overrides, *overrides])
    results = ranks(size).run(engines.train, config, model_folder(kind), batch, advantages)
    # Megatron decays no norm and no bias, torch's AdamW (verl's FSDP engine) all of them.
    reference = expected(method, kind, decay_vectors=engine == "dp")
    errors = compare.errors(results, reference, model_folder(kind))
    wrong = {name: error for name, error in errors.items() if not error <= TOLERANCES[name]}
    assert not wrong, f"{wrong} of {TOLERANCES}"
