"""A policy's own teachers in verl's workers, against its own log-probs and plain Hugging Face.

Tolerances are those of `test_parity.py`.
"""

import functools

import pytest
import torch
from engine_parity import cases, compare, engines, own_teachers, reference
from engine_parity.layouts import LAYOUTS, MICRO_BATCHES
from engine_parity.test_parity import TOLERANCES
from safetensors.torch import load_file

METHOD = cases.METHODS["w_reinforce"]
EVERYWHERE = ("fsdp", "fsdp_dp2", "megatron", "tp2", "pp2", "cp2", "megatron_dp2")
WITHOUT_STAGES = tuple(layout for layout in EVERYWHERE if layout != "pp2")


def ask(ranks, layout, function, *args, overrides=(), divergence=None, **teacher):
    engine, size, layout_overrides = LAYOUTS[layout]
    config = own_teachers.compose(
        METHOD, engine, [*layout_overrides, *overrides], divergence, **teacher
    )
    return ranks(size).run(function, config, *args)


def distributions(folder, weights=None):
    """A plain model in float64, with weights by their names in a checkpoint."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    if weights is not None:
        model.load_state_dict({name: value.double() for name, value in weights.items()})
    return lambda batch, row: reference._distribution(model, batch, row)


def sampled(log_probs, batch, row):
    return reference._row(log_probs, batch, row)[0][batch.mask[row]]


@pytest.mark.parametrize("layout", EVERYWHERE)
def test_the_live_teacher_says_what_the_actor_says_to_the_bit(ranks, model_folder, layout):
    batch = cases.make_batch()
    results = ask(
        ranks, layout, own_teachers.beside_the_actor, model_folder("qwen3"), batch, source="self"
    )
    seen = []
    for result in filter(None, results):
        assert all(map(torch.equal, result["teacher"], result["actor"]))
        seen += result["rows"]
    assert sorted(set(seen)) == list(range(len(batch)))


@pytest.mark.parametrize("layout", WITHOUT_STAGES)
def test_a_trust_region_interpolates_the_logits_of_reference_and_actor(ranks, model_folder, layout):
    folder, batch = model_folder("qwen3"), cases.make_batch()
    function = own_teachers.beside_the_actor
    results = ask(ranks, layout, function, folder, batch, source="trust_region")
    live, ref = distributions(folder), distributions(f"{folder}_teacher")
    with torch.no_grad():
        for result in filter(None, results):
            for place, row in enumerate(result["rows"]):
                # Log-probs are logits up to a constant a token, which the softmax takes out.
                mixed = torch.lerp(ref(batch, row), live(batch, row), 0.25).log_softmax(-1)
                near(result["teacher"][place], sampled(mixed, batch, row))
                near(result["actor"][place], sampled(live(batch, row), batch, row))


# FSDP2 then computes with what it gathered last, unless it is told to gather anew.
KEEPS_GATHERED = ("actor_rollout_ref.actor.fsdp_config.reshard_after_forward=false",)


@pytest.mark.parametrize(
    ("layout", "overrides"),
    [*((layout, ()) for layout in EVERYWHERE), ("fsdp_dp2", KEEPS_GATHERED)],
)
def test_an_average_speaks_with_averaged_weights_and_leaves_no_trace(
    ranks, model_folder, layout, overrides
):
    folder = model_folder("qwen3")
    batch, advantages = METHOD.prepare(cases.make_batch())
    function, arguments = own_teachers.average, (folder, batch, advantages, 2)
    results = ask(ranks, layout, function, *arguments, source="ema", overrides=overrides)
    first, *later = results[0]["history"]
    averaged = {name: value.double() for name, value in first.items()}
    for weights in later:
        averaged = {n: a + 0.25 * (weights[n].double() - a) for n, a in averaged.items()}
    teacher, live = distributions(folder, averaged), distributions(folder, later[-1])
    apart = []
    with torch.no_grad():
        for result in results:
            assert result["kept"]
            assert result["kept_after_an_error"]
            for place, row in enumerate(result["rows"] if result["teacher"] else ()):
                near(result["teacher"][place], sampled(teacher(batch, row), batch, row))
                apart.append(result["teacher"][place] - sampled(live(batch, row), batch, row))
    assert torch.cat(apart).abs().max() > 100 * TOLERANCES["log_probs"]
    for distance, norm in results[0]["distances"]:
        assert 0 < distance < norm


@pytest.mark.parametrize("layout", ["fsdp", "fsdp_dp2", "megatron", "tp2", "pp2"])
def test_an_average_goes_on_from_a_checkpoint_to_the_bit(ranks, model_folder, tmp_path, layout):
    folder, place = model_folder("qwen3"), str(tmp_path / "checkpoint" / "actor")
    batch, advantages = METHOD.prepare(cases.make_batch())
    straight = ask(
        ranks, layout, own_teachers.average, folder, batch, advantages, 3, place, 2, source="ema"
    )
    resumed = ask(
        ranks, layout, own_teachers.resume, folder, batch, advantages, 1, place, source="ema"
    )
    for one, other in zip(straight, resumed, strict=True):
        for part in ("weights", "remainders"):
            assert own_teachers.same(one["average"][part], other["average"][part])
        assert own_teachers.same(one["history"][-1], other["live"])
        if one["teacher"]:
            assert all(map(torch.equal, one["teacher"], other["teacher"]))


def test_an_average_of_other_ranks_is_refused(ranks, model_folder, tmp_path):
    folder, place = model_folder("qwen3"), tmp_path / "checkpoint"
    batch, advantages = METHOD.prepare(cases.make_batch())
    ask(
        ranks, "fsdp", own_teachers.average, folder, batch, advantages, 1, str(place), 1,
        source="ema",
    )  # fmt: skip
    file = place / "verl_ext_ema_world_size_1_rank_0.pt"
    file.rename(place / "verl_ext_ema_world_size_4_rank_0.pt")
    arguments = (folder, batch, advantages, 0, str(place))
    with pytest.raises(RuntimeError, match=r"saved by other ranks .*teacher\.source=self"):
        ask(ranks, "fsdp", own_teachers.resume, *arguments, source="ema")
    (place / "verl_ext_ema_world_size_4_rank_0.pt").unlink()
    (anew,) = ask(ranks, "fsdp", own_teachers.resume, *arguments, source="ema")
    assert anew["kept"]


# A task's advantages beside it, rows without a teacher, a tool's answer inside a response.
REF = "actor_rollout_ref.ref"
DIVERGENCE = {"alpha": "jsd", "support": "student", "top_k": 8, "tail": True, "coef": 0.7}
# Without packing rows are as long as the mini-batch's longest, which not every two of them have.
ROWS_OF_TWO = ("fsdp_dp2", "tp2", "tp2_unpacked", "pp2", "cp2")
SOURCES = [(source, layout) for source in ("self", "ema") for layout in EVERYWHERE] + [
    ("trust_region", layout) for layout in WITHOUT_STAGES
]


@pytest.mark.parametrize(
    ("source", "layout", "cut"),
    [
        *((source, layout, "by_tokens") for source, layout in SOURCES),
        *(("self", layout, "rows_of_two") for layout in ROWS_OF_TWO),
    ],
)
def test_a_policy_learns_from_its_teacher_on_its_likely_tokens(
    ranks, model_folder, learned, source, layout, cut
):
    folder, (batch, advantages, lessons) = model_folder("qwen3"), with_lessons()
    results = ask(
        ranks, layout, own_teachers.distill, folder, batch, advantages, lessons,
        source=source, divergence=DIVERGENCE | {"importance_clip": 1.2},
        overrides=[*MICRO_BATCHES[cut], f"{REF}.log_prob_micro_batch_size_per_gpu=2"],
    )  # fmt: skip
    found = compare.errors(results, learned(source, LAYOUTS[layout][0] == "dp"), folder)
    assert not {name: error for name, error in found.items() if not error <= TOLERANCES[name]}


def with_lessons():
    """Rows and advantages, and what each row's teacher reads: five tokens more than the row."""
    batch, advantages = METHOD.prepare(cases.make_batch())
    draw = torch.Generator().manual_seed(5)
    lessons = [
        None if row % 4 == 1 else torch.cat([prompt, torch.randint(0, 64, (5,), generator=draw)])
        for row, prompt in enumerate(batch.prompts)
    ]
    return batch, advantages, lessons


@pytest.fixture(scope="module")
def learned(model_folder):
    """The plain training against each teacher."""

    @functools.cache
    def trained(source, decay_vectors):
        folder, (batch, advantages, lessons) = model_folder("qwen3"), with_lessons()
        live, ref = distributions(folder), distributions(f"{folder}_teacher")
        grown = {
            name: own_teachers.GROWN * value
            for name, value in load_file(folder / "model.safetensors").items()
        }
        teach = {
            "self": live,
            "ema": distributions(folder, grown),
            "trust_region": lambda *row: torch.lerp(ref(*row), live(*row), 0.25).log_softmax(-1),
        }[source]
        return reference.train(
            folder,
            batch,
            advantages,
            engines.settings_of(engines.compose(METHOD, "dp", [])),
            decay_vectors=decay_vectors,
            divergence=DIVERGENCE | {"clip": 1.2},
            lessons=lessons,
            teach=teach,
        )

    return trained


def near(actual, wanted):
    torch.testing.assert_close(actual.double(), wanted, rtol=0, atol=TOLERANCES["log_probs"])
