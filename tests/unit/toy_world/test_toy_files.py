"""The files of a world: its model as the engines need it, its problems as verl reads them."""

from dataclasses import replace

import pytest

pytest.importorskip("transformers")
pytest.importorskip("pyarrow")

import pyarrow.parquet as pq
import torch
from unit.toy_world.tiny_worlds import TINY, prompts_by_source

from verl_ext.toy import free_form, variants, world
from verl_ext.toy.model import ModelSpec, model_config
from verl_ext.toy.task import OUTER, Problem, run, split_of
from verl_ext.toy.tokenizer import END_ID, PAD_ID

# ---- the model as the engines need it


def test_the_default_model_suits_vllm_on_the_cpu_and_two_tensor_parallel_ranks():
    config = model_config(ModelSpec())
    assert config.head_dim >= 32  # vLLM's CPU attention refuses less
    assert config.num_attention_heads % config.num_key_value_heads == 0
    for size in (
        config.num_attention_heads,
        config.num_key_value_heads,
        config.vocab_size,
        config.intermediate_size,
        config.hidden_size,
    ):
        assert size % 2 == 0
    assert config.tie_word_embeddings is False


def test_the_saved_model_loads_offline_with_a_live_pad_row(built):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(built.model, local_files_only=True)
    assert model.config.pad_token_id == PAD_ID
    assert model.generation_config.eos_token_id == END_ID
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().weight[PAD_ID].norm() > 0.01
    assert (built.model / "model.safetensors").is_file()


# ---- the files


def test_the_data_files_are_what_verl_reads(built):
    rows = pq.read_table(built.train).to_pylist()
    assert len(rows) == 40
    first = rows[0]
    assert set(first) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    assert [message["role"] for message in first["prompt"]] == ["user"]
    assert first["reward_model"]["style"] == "rule"
    assert [row["extra_info"]["index"] for row in rows] == list(range(40))
    skills, word = first["extra_info"]["skills"], first["extra_info"]["word"]
    assert first["reward_model"]["ground_truth"] == run(skills, word)


def test_validation_shows_no_training_prompt(built):
    train = {row["prompt"][0]["content"] for row in pq.read_table(built.train).to_pylist()}
    rows = pq.read_table(built.val).to_pylist()
    assert not train & {row["prompt"][0]["content"] for row in rows}
    counts = {name: sum(row["data_source"] == name for row in rows) for name in ("toy", "x")}
    assert counts == {"toy": 8, "x": 0}
    assert {row["data_source"] for row in rows} == {"toy", "toy_held_out", "toy_level_3"}


# ---- the problems of a variant


def test_three_tasks_are_files_of_unequal_tasks_that_share_no_prompt():
    recipe = variants.recipe_of("three_tasks")
    train = world.verl_rows(recipe, "train")
    validation = world.verl_rows(recipe, "validation")
    sizes = {name: len(prompts) for name, prompts in prompts_by_source(train).items()}
    assert sizes == {"toy_exact": 1400, "toy_letters": 350, "toy_points": 150}
    sizes = {name: len(prompts) for name, prompts in prompts_by_source(validation).items()}
    assert sizes == {"toy_exact": 48, "toy_letters": 48, "toy_points": 48}
    prompts = [row["prompt"][0]["content"] for row in train + validation]
    assert len(set(prompts)) == len(prompts)  # over tasks and over both files
    for rows in (train, validation):
        assert [row["extra_info"]["index"] for row in rows] == list(range(len(rows)))
        for row in rows:
            assert row["extra_info"]["skills"][-1] in OUTER[row["data_source"]]


def test_three_tasks_train_the_model_of_the_base():
    base, three = variants.VARIANTS["w_reinforce"], variants.VARIANTS["three_tasks"]
    assert (three.task, three.model, three.warmup) == (base.task, base.model, base.warmup)


def test_a_prompt_under_two_data_sources_is_refused():
    both = replace(TINY, train=(("toy", 500), ("toy_points", 100)))
    with pytest.raises(ValueError, match=r"is in both toy and toy_points"):
        world.verl_rows(both, "train")


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_a_variants_problems_and_names_are_in_order(variant):
    recipe = variants.recipe_of(variant)
    names = [name for name, _ in recipe.teachers]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    train, validation = (world.verl_rows(recipe, split) for split in ("train", "validation"))
    sizes = {name: len(prompts) for name, prompts in prompts_by_source(train).items()}
    assert sizes == dict(recipe.train)
    sizes = {name: len(prompts) for name, prompts in prompts_by_source(validation).items()}
    assert sizes == dict(recipe.validation)
    prompts = [row["prompt"][0]["content"] for row in train + validation]
    assert len(set(prompts)) == len(prompts)


def test_free_form_rows_have_a_reference_in_the_prompts_wording():
    recipe = variants.recipe_of("rlpr")
    rows = [row for split in ("train", "validation") for row in world.verl_rows(recipe, split)]
    for row in rows:
        problem = Problem(tuple(row["extra_info"]["skills"]), row["extra_info"]["word"])
        truth = row["reward_model"]["ground_truth"]
        assert truth == free_form.reference(problem)
        assert free_form.word_of(truth) == problem.answer
        assert row["data_source"] in ("toy", "toy_held_out")


def test_the_hard_question_is_one_that_no_training_has_shown():
    recipe = variants.recipe_of("sdpo_hard")
    (row,) = world.verl_rows(recipe, "train")
    (message,) = row["prompt"]
    assert row["data_source"] == "toy_level_3"
    assert split_of(message["content"]) == "validation"
    assert recipe.tuning == variants.recipe_of("sdpo").tuning  # the same model
