import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import pytest
from unit.hash_seeds import same_output

pytest.importorskip("transformers")
pytest.importorskip("pyarrow")

import pyarrow.parquet as pq
import torch

from verl_ext.toy import cache, free_form, variants, world
from verl_ext.toy.answers import Answer, sample_answers
from verl_ext.toy.demonstrations import WarmupSpec, demonstrations, prompts_and_responses
from verl_ext.toy.model import IGNORED, ModelSpec, model_config, training_batch, warm_up
from verl_ext.toy.task import OUTER, Problem, TaskSpec, compositions, run, split_of
from verl_ext.toy.tokenizer import END_ID, PAD_ID, VOCAB_SIZE, byte_tokenizer

SMALL = ModelSpec(hidden_size=32, layers=1, heads=2, kv_heads=2, feed_forward=32)
BRIEF = WarmupSpec(steps=2, batch_size=8, threads=1)
TINY = variants.Recipe(
    model=SMALL,
    warmup=BRIEF,
    train=(("toy", 40),),
    validation=(("toy", 8), ("toy_held_out", 8), ("toy_level_3", 8)),
)
CAREFUL = replace(BRIEF, careless_share=0.0, seed=1)
LEFT = replace(BRIEF, careful_pairs="toy_left", seed=1)
TAUGHT = replace(
    TINY, tuning=(LEFT,), teachers=(("left", (LEFT,)), ("late", (LEFT, CAREFUL)), ("early", ()))
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(variants.VARIANTS, "tiny", TINY)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.VARIANTS, "tiny", TINY)
        yield world.ensure("tiny", cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="module")
def taught(built):
    """A world with three teachers, in the cache of the one without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.VARIANTS, "taught", TAUGHT)
        yield world.ensure("taught", cache_dir=built.root.parent.parent, progress=False)


# ---- tokenizer


def test_every_byte_is_one_token_and_comes_back():
    tokenizer = byte_tokenizer()
    text = "".join(chr(code) for code in range(128)) + "äλ€𝄞"
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("\n") == [10]
    assert tokenizer.encode(" f3(gab)=") == list(b" f3(gab)=")  # no prefix space is added


def test_every_id_the_model_can_sample_decodes():
    tokenizer = byte_tokenizer()
    assert len(tokenizer) == VOCAB_SIZE
    assert VOCAB_SIZE % 8 == 0
    assert None not in tokenizer.convert_ids_to_tokens(range(VOCAB_SIZE))


def test_the_chat_template_is_qwen_shaped(built):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built.model, local_files_only=True)
    messages = [
        {"role": "user", "content": "f3(gab)="},
        {"role": "assistant", "content": "abg"},
        {"role": "user", "content": "again"},
    ]
    expected = (
        "<|im_start|>user\nf3(gab)=<|im_end|>\n<|im_start|>assistant\nabg<|im_end|>\n"
        "<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n"
    )
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == expected
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (END_ID, PAD_ID)
    assert tokenizer.decode([*b"abg", END_ID, PAD_ID], skip_special_tokens=True) == "abg"


def test_verls_continuous_token_builder_accepts_the_tokenizer(built):
    wiring = pytest.importorskip("verl.utils.tokenizer.continuous_token_wiring")
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built.model, local_files_only=True)
    model_type = AutoConfig.from_pretrained(built.model).model_type
    builder = wiring.create_continuous_token_builder(tokenizer, hf_model_type=model_type)
    assert type(builder).__name__ == "QwenContinuousTokenBuilder"
    asked = [{"role": "user", "content": "f3(gab)="}]
    prompt = builder.build_initial_tokens(asked)
    answered = [*asked, {"role": "assistant", "content": "abg"}]
    again = [*answered, {"role": "user", "content": "again"}]
    # What verl keeps turn by turn is what the template renders at once.
    context = builder.tokenize_context_incremental_messages(answered, again)
    runtime = [*prompt, *b"abg", END_ID, 10, *context]
    whole = tokenizer.apply_chat_template(again, add_generation_prompt=True, return_dict=False)
    assert runtime == list(whole)


# ---- warm-up


def test_the_loss_stands_on_the_answer_and_its_end_alone():
    rows = [next(demonstrations(TaskSpec(), WarmupSpec(seed=seed))) for seed in range(4)]
    asked = [(problem.prompt, answer) for problem, answer in rows]
    input_ids, labels = training_batch(byte_tokenizer(), asked)
    for row, (_, answer) in enumerate(rows):
        learned = labels[row][labels[row] != IGNORED].tolist()
        assert learned == [*answer.encode(), END_ID]
        assert torch.equal(labels[row][labels[row] != IGNORED], input_ids[row][labels[row] != -100])


def test_carelessness_forgets_one_function_of_a_pair_and_spares_single_functions():
    data = demonstrations(
        TaskSpec(), WarmupSpec(single_share=0.5, careful_share=0.0, careless_share=1.0)
    )
    for problem, answer in (next(data) for _ in range(300)):
        assert split_of(problem.prompt) == "warmup"
        if len(problem.skills) == 1:
            assert answer == problem.answer
        else:
            assert answer in {run((skill,), problem.word) for skill in problem.skills}


def test_careful_demonstrations_are_all_right():
    data = demonstrations(TaskSpec(), WarmupSpec(careful_share=0.0, careless_share=0.0))
    assert all(answer == problem.answer for problem, answer in (next(data) for _ in range(300)))


def test_one_domain_can_be_spared_from_carelessness():
    data = demonstrations(
        TaskSpec(),
        WarmupSpec(
            single_share=0, careful_share=0, careless_share=1.0, careful_pairs="toy_left", seed=3
        ),
    )
    left = set(compositions("toy_left"))
    wrong = {True: 0, False: 0}
    for problem, answer in (next(data) for _ in range(400)):
        wrong[problem.skills in left] += answer != problem.answer
    assert wrong[True] == 0
    assert wrong[False] > 100  # of about 200; forgetting a function does not always show


def test_slips_change_letters_of_careless_pairs_alone_and_no_length():
    warmup = WarmupSpec(
        single_share=0.3,
        careful_share=0,
        careless_share=0.0,
        careful_pairs="toy_left",
        slip_share=0.5,
    )
    left = set(compositions("toy_left"))
    letters = changed = 0
    for problem, answer in islice(demonstrations(TaskSpec(), warmup), 1500):
        assert len(answer) == len(problem.answer)
        if len(problem.skills) == 1 or problem.skills in left:
            assert answer == problem.answer
        else:
            letters += len(answer)
            changed += sum(a != b for a, b in zip(answer, problem.answer, strict=True))
    # Drawn anew is every second letter, and one in six of them comes out as it was.
    expected = 0.5 * 5 / 6
    assert abs(changed / letters - expected) < 4 * (expected * (1 - expected) / letters) ** 0.5


def digest_of(recipe):
    """Of what a recipe's models are shown, careless from the start, and of its data files."""
    shown, files = hashlib.sha256(), hashlib.sha256()
    teachers = [warmup for _, tuning in recipe.teachers for warmup in tuning]
    for warmup in (recipe.warmup, *recipe.tuning, *teachers):
        rows = prompts_and_responses(recipe.task, replace(warmup, careful_share=0.0))
        for row in islice(rows, 1000):
            shown.update(repr(row).encode())
    for split in ("train", "validation"):
        files.update(json.dumps(world.verl_rows(recipe, split)).encode())
    return shown.hexdigest()[:12], files.hexdigest()[:12]


# Measured numbers rest on these: a change of one asks for all of its measurements again.
@pytest.mark.parametrize(
    ("variant", "shown", "files"),
    [
        ("w_reinforce", "b3f431878ac5", "7af0a2caf54f"),
        ("three_tasks", "b3f431878ac5", "87859177dc8e"),
        ("opd", "02da810bb5a6", "7af0a2caf54f"),
        ("opd_domains", "5bb02b7552f6", "bec1da235e54"),
        ("sdpo", "cbe7b722db28", "7af0a2caf54f"),
        ("sdpo_hard", "cbe7b722db28", "b2c2145dfcd6"),
        ("opd_forget", "5b619529a3ff", "e37cef782925"),
        ("opd_recover", "680d208ff068", "28d87958b8ab"),
    ],
)
def test_a_variants_content_stays_what_it_was(variant, shown, files):
    assert digest_of(variants.recipe_of(variant)) == (shown, files)


def test_the_pairs_can_be_those_of_one_domain():
    data = demonstrations(TaskSpec(), WarmupSpec(single_share=0, pairs="toy_right"))
    shown = {problem.skills for problem, _ in (next(data) for _ in range(400))}
    assert shown == set(compositions("toy_right"))


def test_a_misspelt_domain_is_refused_instead_of_sparing_nothing():
    with pytest.raises(ValueError, match="data_source must be one of"):
        next(demonstrations(TaskSpec(), WarmupSpec(careful_pairs="toy_lef")))


def test_carelessness_begins_after_the_careful_share_of_the_updates():
    warmup = WarmupSpec(steps=100, batch_size=4, careful_share=0.75, careless_share=1.0)
    data = demonstrations(TaskSpec(), warmup)
    right = [answer == problem.answer for problem, answer in (next(data) for _ in range(400))]
    assert all(right[:300])  # 75 updates of 4
    assert not all(right[300:])


def test_the_warm_up_learns():
    model = warm_up(
        TaskSpec(), SMALL, WarmupSpec(steps=30, batch_size=16, threads=1), progress=False
    )
    rows = [next(demonstrations(TaskSpec(), WarmupSpec(seed=9))) for _ in range(64)]
    asked = [(problem.prompt, answer) for problem, answer in rows]
    input_ids, labels = training_batch(byte_tokenizer(), asked)
    with torch.no_grad():
        loss = model(input_ids=input_ids, labels=labels).loss.item()
    assert loss < 4.0  # log(264) = 5.58 before training


def test_the_caller_keeps_its_random_state_and_its_threads():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    threads = torch.get_num_threads()
    warm_up(TaskSpec(), SMALL, replace(BRIEF, threads=threads + 1), progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_two_processes_build_the_same_weights_bit_for_bit():
    code = (
        "import hashlib; from verl_ext.toy.model import *; from verl_ext.toy.task import TaskSpec;"
        "from verl_ext.toy.demonstrations import WarmupSpec;"
        "spec = ModelSpec(32, 1, 2, 2, 32); warmup = WarmupSpec(steps=2, batch_size=8, threads=1);"
        "model = warm_up(TaskSpec(), spec, warmup, progress=False);"
        "state = hashlib.sha256();"
        "[state.update(p.detach().numpy().tobytes()) for p in model.parameters()];"
        "print(state.hexdigest())"
    )
    assert same_output(code)


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


# ---- three tasks


def prompts_by_source(rows):
    found = {}
    for row in rows:
        found.setdefault(row["data_source"], []).append(row["prompt"][0]["content"])
    return found


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


def test_worlds_that_differ_in_their_prompts_alone_share_one_warm_up(built, monkeypatch):
    tasks = (("toy_exact", 8), ("toy_points", 4))
    other = replace(TINY, train=tasks, validation=tasks, seed=3)
    monkeypatch.setitem(variants.VARIANTS, "other", other)
    monkeypatch.setattr(world.toy_model, "warm_up", None)  # calling it would fail
    again = world.ensure("other", cache_dir=built.root.parent.parent, progress=False)
    assert again.root != built.root
    weights = [cache.digest(each.model / "model.safetensors") for each in (built, again)]
    assert weights[0] == weights[1]
    assert not (again.model / cache.MANIFEST).exists()


def test_worlds_with_another_warm_up_share_none(tmp_path):
    folders = {
        world.warmed_up(recipe, tmp_path, progress=False)
        for recipe in (TINY, replace(TINY, warmup=replace(BRIEF, seed=1)), replace(TINY, seed=1))
    }
    assert len(folders) == 2


# ---- teachers


def weights(folder):
    return cache.digest(folder / "model.safetensors")


def test_a_world_names_its_teachers_and_the_first_of_them(taught):
    assert list(taught.teachers) == ["left", "late", "early"]
    assert taught.part("teacher") == taught.part("teacher_left") == taught.root / "teacher_left"
    assert taught.part("teacher_late") == taught.root / "teacher_late"
    assert taught.part("model") == taught.model
    assert all(path.exists() for path in taught.parts.values())


def test_teachers_have_the_models_tokenizer_and_are_watched_over(taught):
    files = json.loads((taught.root / "manifest.json").read_text())["files"]
    for name, folder in taught.teachers.items():
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            assert (folder / file).read_bytes() == (taught.model / file).read_bytes()
        assert f"teacher_{name}/model.safetensors" in files
        assert not (folder / cache.MANIFEST).exists()


def test_each_teacher_has_the_training_its_recipe_gives_it(built, taught):
    teachers = {name: weights(folder) for name, folder in taught.teachers.items()}
    assert teachers["early"] == weights(built.model)  # the warm-up alone
    assert teachers["left"] == weights(taught.model)  # the model's own tuning
    assert len(set(teachers.values())) == 3
    start = built.model
    for tuning, name in ((LEFT, "left"), (CAREFUL, "late")):  # each goes on from the one before
        model = warm_up(TINY.task, SMALL, tuning, start=start, progress=False)
        world.toy_model.save_model(model, built.root.parent / f"again_{name}")
        start = built.root.parent / f"again_{name}"
        assert weights(start) == teachers[name]


def test_models_that_are_trained_alike_are_trained_once(taught, monkeypatch):
    swapped = replace(TAUGHT, tuning=(LEFT, CAREFUL), teachers=(("student", (LEFT,)),))
    monkeypatch.setitem(variants.VARIANTS, "swapped", swapped)
    monkeypatch.setattr(world.toy_model, "warm_up", None)  # calling it would fail
    again = world.ensure("swapped", cache_dir=taught.root.parent.parent, progress=False)
    assert weights(again.model) == weights(taught.teachers["late"])
    assert weights(again.part("teacher")) == weights(taught.model)


def test_a_part_that_is_not_there_is_refused_with_those_that_are(built, taught):
    with pytest.raises(ValueError, match=r"no part 'teacher_lft'.*teacher_left, teacher_late"):
        taught.part("teacher_lft")
    with pytest.raises(ValueError, match=r"no part 'teacher'; it has model, train, val$"):
        built.part("teacher")


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


# ---- answers


ASKED = [[{"role": "user", "content": text}] for text in ("f3(gab)=", "f14(f17(fab))=", "f9(a)=")]


def test_answers_are_sampled_for_each_prompt_and_repeat_with_their_seed(built):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    answers = sample_answers(built.model, ASKED, 4, seed=5)
    assert torch.equal(torch.rand(3), expected)  # the caller's random state is left alone
    assert [len(own) for own in answers] == [4, 4, 4]
    assert len({answer.text for own in answers for answer in own}) > 6  # an untrained model babbles
    assert sample_answers(built.model, ASKED, 4, seed=5) == answers
    assert sample_answers(built.model, ASKED, 4, seed=6) != answers


def test_an_answer_counts_its_tokens_up_to_the_end_of_the_turn(built, monkeypatch):
    from transformers import Qwen3ForCausalLM

    def generate(self, input_ids, **_):
        tails = torch.tensor([[*b"abg", END_ID, PAD_ID], [*b"abgab"], [END_ID] + [PAD_ID] * 4])
        return torch.cat([input_ids, tails], dim=1)

    monkeypatch.setattr(Qwen3ForCausalLM, "generate", generate)
    answers = sample_answers(built.model, ASKED, 1)
    assert answers == [[Answer("abg", 4)], [Answer("abgab", 5)], [Answer("", 1)]]


def test_unequal_prompts_are_padded_on_the_left_and_masked(built, monkeypatch):
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    seen = {}

    def generate(self, **inputs):
        seen.update(inputs)
        return torch.cat([inputs["input_ids"], torch.full((6, 1), END_ID)], dim=1)

    monkeypatch.setattr(Qwen3ForCausalLM, "generate", generate)
    sample_answers(built.model, ASKED, 2)
    tokenizer = AutoTokenizer.from_pretrained(built.model)
    for row in range(6):
        expected = tokenizer.apply_chat_template(
            ASKED[row // 2], add_generation_prompt=True, return_dict=False
        )
        mask = seen["attention_mask"][row].bool()
        assert seen["input_ids"][row][mask].tolist() == list(expected)
        assert mask[-len(expected) :].all()  # nothing stands between a prompt and its answer
        assert not mask[: -len(expected)].any()
    assert (seen["temperature"], seen["top_p"], seen["top_k"]) == (1.0, 1.0, 0)


@pytest.mark.parametrize(("prompts", "samples"), [([], 4), (ASKED, 0)])
def test_nothing_to_sample_is_refused(built, prompts, samples):
    with pytest.raises(ValueError, match="nothing to sample"):
        sample_answers(built.model, prompts, samples)


# ---- the cache


def test_a_whole_world_is_taken_from_the_cache(built, tiny, monkeypatch):
    monkeypatch.setattr(world, "build", None)  # calling it would fail
    assert world.ensure("tiny", cache_dir=built.root.parent.parent) == built


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def change_one_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model/model.safetensors", truncate),
        ("model/model.safetensors", change_one_byte),
        ("train.parquet", os.remove),
        ("manifest.json", os.remove),
        ("manifest.json", truncate),
        ("manifest.json", lambda path: path.write_text("[]")),
    ],
)
def test_a_damaged_world_is_built_again(tmp_path, tiny, capsys, name, damage):
    first = world.ensure("tiny", cache_dir=tmp_path, progress=False)
    expected = cache.digest(first.model / "model.safetensors")
    damage(first.root / name)
    assert cache.what_is_wrong(first.root) is not None
    again = world.ensure("tiny", cache_dir=tmp_path, progress=False)
    assert again == first
    assert cache.what_is_wrong(again.root) is None
    assert cache.digest(again.model / "model.safetensors") == expected
    assert "rebuilding" in capsys.readouterr().err


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    def build(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("out of disk")

    with pytest.raises(RuntimeError, match="out of disk"):
        cache.build_once(tmp_path / "world", build)
    assert [path.name for path in tmp_path.iterdir()] == ["world.lock"]


def test_the_finished_folder_is_the_very_one_that_was_built_renamed_at_once(tmp_path):
    built = []

    def build(folder):
        (folder / "f").write_text("y")
        built.append(folder.stat().st_ino)

    assert cache.build_once(tmp_path / "world", build).stat().st_ino == built[0]


def test_what_a_killed_build_left_is_cleared(tmp_path):
    left_over = tmp_path / "world.partial-abc"
    left_over.mkdir()
    (left_over / "half").write_text("x")
    cache.build_once(tmp_path / "world", lambda folder: (folder / "f").write_text("y"))
    assert not left_over.exists()
    assert (tmp_path / "world" / "f").read_text() == "y"


def test_two_who_ask_at_once_build_once(tmp_path):
    built = []

    def build(folder):
        built.append(folder)
        threading.Event().wait(0.2)  # long enough for the other one to find the lock taken
        (folder / "f").write_text("y")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: cache.build_once(tmp_path / "world", build), range(2)))
    assert len(built) == 1


def test_the_manifest_lists_every_file(built):
    files = json.loads((built.root / "manifest.json").read_text())["files"]
    on_disk = {p.relative_to(built.root).as_posix() for p in built.root.rglob("*") if p.is_file()}
    assert set(files) == on_disk - {"manifest.json"}


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("VERL_EXT_CACHE", str(tmp_path / "own"))
    assert world.path_of("w_reinforce").parent == tmp_path / "own" / "toy"
    monkeypatch.delenv("VERL_EXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert world.path_of("w_reinforce").parent == tmp_path / "xdg" / "verl_ext" / "toy"


def test_any_parameter_of_the_recipe_names_another_folder():
    names = {
        world.fingerprint(recipe)
        for recipe in (
            TINY,
            replace(TINY, seed=1),
            replace(TINY, warmup=replace(BRIEF, careless_share=0.25)),
            replace(TINY, task=TaskSpec(max_length=4)),
            replace(TINY, model=replace(SMALL, layers=2)),
            replace(TINY, tuning=(BRIEF,)),
            replace(TINY, teachers=(("a", (BRIEF,)),)),
            replace(TINY, teachers=(("b", (BRIEF,)),)),
            replace(TINY, teachers=(("b", (CAREFUL,)),)),
        )
    }
    assert len(names) == 9
    assert world.fingerprint(TINY) == world.fingerprint(replace(TINY))


def test_another_variant_rebuilds_nothing(monkeypatch):
    before = world.path_of("w_reinforce")
    monkeypatch.setitem(variants.VARIANTS, "another", TAUGHT)
    assert world.path_of("w_reinforce") == before
    assert variants.__file__ not in {str(path) for path in world.sources()}


def test_an_unknown_variant_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'w_reinforce'"):
        world.ensure("w_reinforced")
    with pytest.raises(ValueError, match="toy variant must be one of"):
        world.path_of("zzz")


def test_free_form_rows_have_a_reference_in_the_prompts_wording():
    recipe = variants.recipe_of("rlpr")
    rows = [row for split in ("train", "validation") for row in world.verl_rows(recipe, split)]
    for row in rows:
        problem = Problem(tuple(row["extra_info"]["skills"]), row["extra_info"]["word"])
        truth = row["reward_model"]["ground_truth"]
        assert truth == free_form.reference(problem)
        assert free_form.word_of(truth) == problem.answer
        assert row["data_source"] in ("toy", "toy_held_out")


def test_the_loss_of_a_free_form_demonstration_stands_on_reasoning_and_answer():
    recipe = variants.recipe_of("rlpr")
    rows = list(islice(prompts_and_responses(recipe.task, recipe.tuning[-1]), 8))
    _, labels = training_batch(byte_tokenizer(), rows)
    for row, (_, response) in zip(labels, rows, strict=True):
        assert row[row != IGNORED].tolist() == [*response.encode(), END_ID]


def test_a_free_form_world_is_tuned_from_the_same_warm_up(built, monkeypatch):
    form = replace(TINY, tuning=(replace(BRIEF, free_form=True, seed=1),))
    monkeypatch.setitem(variants.VARIANTS, "form", form)
    again = world.ensure("form", cache_dir=built.root.parent.parent, progress=False)
    assert weights(again.model) != weights(built.model)
    for row in pq.read_table(again.val).to_pylist():
        assert free_form.word_of(row["reward_model"]["ground_truth"])


def test_the_hard_question_is_one_that_no_training_has_shown():
    recipe = variants.recipe_of("sdpo_hard")
    (row,) = world.verl_rows(recipe, "train")
    (message,) = row["prompt"]
    assert row["data_source"] == "toy_level_3"
    assert split_of(message["content"]) == "validation"
    assert recipe.tuning == variants.recipe_of("sdpo").tuning  # the same model
