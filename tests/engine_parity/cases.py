"""What the engines are compared on: models, one batch, and a table of methods.

A method is one row of :data:`METHODS`: the overlay's name, and how its advantages and masks come
from the batch. The later ones go there too.
"""

from dataclasses import dataclass, field, replace

import torch

from verl_ext.adapters.masks import MaskChain, rows_to_train
from verl_ext.advantage_fns.rank import rank
from verl_ext.advantage_fns.reverse_kl import reverse_kl
from verl_ext.advantage_fns.task_norm import task_norm
from verl_ext.advantage_fns.w_reinforce import w_reinforce
from verl_ext.toy.tokenizer import VOCAB_SIZE

UPDATES = 3
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Batch:
    """Rows of different lengths, as lists of tensors.

    prompts, responses: token ids; mask: which response tokens the policy sampled (the others are a
    tool's); old_log_probs, ref_log_probs: of the responses; rewards: 0 or 1 a row; numbers: which
    row it is, whatever the order, and so its prompt and its task.
    """

    prompts: list
    responses: list
    mask: list
    old_log_probs: list
    ref_log_probs: list
    rewards: list
    numbers: list

    def __len__(self):
        return len(self.prompts)

    def rows(self, index):
        pick = {name: [values[i] for i in index] for name, values in vars(self).items()}
        return Batch(**pick)

    def padded(self, values, dtype=torch.float64):
        """(rows, longest response), zero where a response has ended."""
        columns = [value.to(dtype) for value in values]
        return torch.nn.utils.rnn.pad_sequence(columns, batch_first=True)


def make_batch(rows=8, seed=0):
    draw = torch.Generator().manual_seed(seed)

    def integers(low, high, size=()):
        return torch.randint(low, high, size, generator=draw)

    lengths = [(int(integers(3, 9)), int(integers(2, 11))) for _ in range(rows)]
    masks = [torch.ones(length, dtype=torch.bool) for _, length in lengths]
    for row in range(0, rows, 3):  # a tool's answer inside the response
        masks[row][: lengths[row][1] // 2] = False
    noise = [torch.randn(2, length, generator=draw).double() for _, length in lengths]
    return Batch(
        prompts=[integers(0, VOCAB_SIZE, (prompt,)) for prompt, _ in lengths],
        responses=[integers(0, VOCAB_SIZE, (response,)) for _, response in lengths],
        mask=masks,
        # Around the log-probs of a model that knows nothing, far enough that ratios are clipped.
        old_log_probs=[-torch.tensor(VOCAB_SIZE).log() + 0.5 * n[0] for n in noise],
        ref_log_probs=[-torch.tensor(VOCAB_SIZE).log() + 0.5 * n[1] for n in noise],
        rewards=[float(integers(0, 2)) for _ in range(rows)],
        numbers=list(range(rows)),
    )


@dataclass(frozen=True)
class Method:
    """A row of the table.

    overlay: of ``+paper=``; advantages: (batch) to (rows, time) float64; masks: as in the
    configuration; overrides: of the configuration, besides the overlay's; divergence: as in the
    configuration, from a teacher that is another random model.
    """

    overlay: str
    advantages: object
    masks: dict = field(default_factory=dict)
    overrides: tuple = field(default=())
    divergence: dict | None = None

    def prepare(self, batch, multiple=1):
        """The rows and tokens that are trained on, and their advantages (rows, time).

        As the trainer does it: rows that count, and others, masked, up to a multiple.
        """
        mask = batch.padded(batch.mask)
        masked = MaskChain(self.masks)(self.advantages(batch), mask, {"entropy": entropy(mask)})
        counted = [row[: len(own)] for row, own in zip(masked.counted, batch.mask, strict=True)]
        lengths = [len(response) for response in batch.responses]
        index = rows_to_train(masked.counted, lengths, multiple)
        return replace(batch, mask=counted).rows(index), masked.advantages[index]


def entropy(mask):
    """Nats that rise from 0 to 1 along each response."""
    return torch.linspace(0, 1, mask.shape[1], dtype=mask.dtype).expand(mask.shape)


def on_last_token(batch, outcomes):
    """(rows, time): each row's outcome on its last sampled token, and the mask."""
    mask = batch.padded(batch.mask)
    rewards = torch.zeros_like(mask)
    for row, outcome in enumerate(outcomes):
        rewards[row, mask[row].nonzero().max()] = outcome
    return rewards, mask


def weighted(positive, negative):
    def advantages(batch):
        rewards, mask = on_last_token(batch, batch.rewards)
        weights = {"positive_weight": positive, "negative_weight": negative}
        return w_reinforce(rewards, mask, **weights)[0]

    return advantages


def by_task(batch):
    """Four prompts of two responses each, in two tasks; the second task's rewards are points."""
    partly = [0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4]  # so that no prompt's rewards are equal
    outcomes = [
        (reward + partly[number]) * (10.0 if number >= 4 else 1.0)
        for reward, number in zip(batch.rewards, batch.numbers, strict=True)
    ]
    groups, tasks = [n // 2 for n in batch.numbers], [n // 4 for n in batch.numbers]
    return task_norm(*on_last_token(batch, outcomes), groups, tasks)[0]


def by_rank(batch):
    """Two prompts of four responses each, with the places of a tournament; two share one."""
    mask = batch.padded(batch.mask)
    places = torch.tensor([0, 1, 1 / 3, 2 / 3, 1, 0.5, 0.5, 0], dtype=mask.dtype)
    return rank(places[batch.numbers], mask, [n // 4 for n in batch.numbers])[0]


def by_teacher(batch):
    """The teacher's log-probs of the sampled tokens are what the others call the reference's."""
    student, teacher = batch.padded(batch.old_log_probs), batch.padded(batch.ref_log_probs)
    return reverse_kl(student, teacher, batch.padded(batch.mask), discount=0.5)


def against(alpha, support, top_k, *, tail=True, coef=0.7):
    """A task's advantages with a divergence beside them."""
    settings = {"alpha": alpha, "support": support, "top_k": top_k, "tail": tail, "coef": coef}
    return Method("w_reinforce", weighted(0.1, 1.0), divergence=settings)


METHODS = {
    "w_reinforce": Method("w_reinforce", weighted(0.1, 1.0)),
    "psr": Method("psr", weighted(1.0, 0.0), masks={"zero_advantage": {}}),
    "nsr": Method("nsr", weighted(0.0, 1.0), masks={"zero_advantage": {}}),
    "task_norm": Method("task_norm", by_task),
    # Mistakes at the more uncertain tokens leave the loss and its denominator.
    "aepo": Method(
        "aepo",
        weighted(1.0, 1.0),
        masks={"aepo": {"gate": "off", "token_threshold": 0.3, "denominator": "kept"}},
    ),
    # The gate is on: all of them leave the loss, and still count in it.
    "qwenlong_l15": Method("qwenlong_l15", by_task, masks={"aepo": {"low": 0.0, "high": 0.1}}),
    "arena_rl": Method("arena_rl", by_rank),
    "opd": Method("opd", by_teacher),
    "student_top_k": against("reverse_kl", "student", 8),
    "teacher_top_k": against("forward_kl", "teacher", 8, tail=False),
    "whole_vocabulary": against("jsd", "full", None),
    # The terms of verl's loss that the papers leave small or off, so that each engine has them.
    "kl_and_entropy": Method(
        "w_reinforce",
        weighted(1.0, 1.0),
        overrides=(
            "actor_rollout_ref.actor.use_kl_loss=true",
            "actor_rollout_ref.actor.kl_loss_coef=0.3",
            "actor_rollout_ref.actor.kl_loss_type=low_var_kl",
            "actor_rollout_ref.actor.entropy_coeff=0.2",
            "actor_rollout_ref.actor.clip_ratio_c=3.0",
        ),
    ),
}


def save_model(kind, folder, seed=0):
    """A tiny random model and its tokenizer; heads and layers split over two ranks."""
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config, Qwen3MoeConfig

    from verl_ext.toy.tokenizer import byte_tokenizer

    common = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,
        "pad_token_id": None,  # its embedding row would start as zero; see docs/footguns.md
        "bos_token_id": None,
        "dtype": "float32",
    }
    configs = {
        "qwen3": lambda: Qwen3Config(**common, head_dim=32, tie_word_embeddings=False),
        # Enough layers for two interleaved stages on each of two ranks.
        "qwen3_deep": lambda: Qwen3Config(
            **(common | {"num_hidden_layers": 4}), head_dim=32, tie_word_embeddings=False
        ),
        "qwen3_one_kv_head": lambda: Qwen3Config(
            **(common | {"num_key_value_heads": 1}), head_dim=32, tie_word_embeddings=False
        ),
        "qwen3_odd": lambda: Qwen3Config(
            **(common | {"num_hidden_layers": 3}), head_dim=32, tie_word_embeddings=False
        ),
        "qwen2_tied": lambda: Qwen2Config(**common, tie_word_embeddings=True),
        "qwen3_moe": lambda: Qwen3MoeConfig(
            **common,
            head_dim=32,
            tie_word_embeddings=False,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=48,
            norm_topk_prob=True,
            router_aux_loss_coef=0.0,
        ),
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(configs[kind](), dtype=torch.float32)
    with torch.no_grad():  # norms that are not all ones, biases that are not all zero
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
