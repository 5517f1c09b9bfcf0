import math

import pytest
import torch

from verl_ext.advantage_fns.reverse_kl import reverse_kl

# One response of three tokens, a tool's answer, and two more tokens.
STUDENT = torch.tensor([[-0.5, -1, -0.2, 0, -0.1, -2]], dtype=torch.float64)
TEACHER = torch.tensor([[-0.7, -0.4, -0.2, -3, -1.1, -0.5]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 0, 1, 1]])
# log p − log q: .2, −.6, 0, (masked), 1, −1.5; their mean over the five is −.18.
LOG_RATIO = torch.tensor([[0.2, -0.6, 0, 0, 1, -1.5]], dtype=torch.float64)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)


def test_each_token_gets_minus_its_log_ratio():
    close(reverse_kl(STUDENT, TEACHER, MASK), -LOG_RATIO)


def test_the_coefficient_scales():
    close(reverse_kl(STUDENT, TEACHER, MASK, coef=0.25), -0.25 * LOG_RATIO)
    assert not reverse_kl(STUDENT, TEACHER, MASK, coef=0.0).any()


@pytest.mark.parametrize(
    ("discount", "expected"),
    [
        (0.5, [0.084375, 0.56875, -0.0625, 0, -0.25, 1.5]),
        (0.9, [0.569635, 0.85515, 0.2835, 0, 0.35, 1.5]),
        (1.0, [0.9, 1.1, 0.5, 0, 0.5, 1.5]),
    ],
)
def test_a_discount_adds_the_future_and_the_tools_answer_counts_as_a_step(discount, expected):
    # Backwards by hand at .5: 1.5, −1 + .75 = −.25, (0 − .125), 0 − .0625, .6 − .03125, ...
    advantages = reverse_kl(STUDENT, TEACHER, MASK, discount=discount)
    close(advantages, torch.tensor([expected], dtype=torch.float64))


def test_deviates_in_leaving_nothing_on_a_tools_answer_after_discounting():
    # The authors' sum leaves −.125 there at γ = .5.
    assert reverse_kl(STUDENT, TEACHER, MASK, discount=0.5)[0, 3] == 0


def test_centring_subtracts_the_batch_mean_of_the_sampled_tokens():
    expected = [-0.38, 0.42, -0.18, 0, -1.18, 1.32]
    advantages = reverse_kl(STUDENT, TEACHER, MASK, center=True)
    close(advantages, torch.tensor([expected], dtype=torch.float64))
    assert abs(advantages.sum().item()) < 1e-12


def test_the_mean_is_over_the_batch_and_not_over_a_row():
    student = torch.tensor([[-1.0, -1.0], [-3.0, 0.0]])
    mask = torch.tensor([[1, 1], [1, 0]])
    # Log-ratios against log q = −1: 0, 0, −2; mean −2/3.
    advantages = reverse_kl(student, torch.full_like(student, -1), mask, center=True)
    close(advantages, torch.tensor([[-2 / 3, -2 / 3], [4 / 3, 0]]).float())


def test_centring_comes_before_discounting():
    advantages = reverse_kl(STUDENT, TEACHER, MASK, center=True, discount=1.0)
    assert advantages[0, 0].item() == pytest.approx(0, abs=1e-12)  # all of it, centred


@pytest.mark.parametrize("on_padding", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("discount", [0.0, 0.5])
@pytest.mark.parametrize("center", [False, True])
def test_what_stands_at_masked_positions_does_not_matter(on_padding, discount, center):
    dirty = [values.masked_fill(MASK == 0, on_padding) for values in (STUDENT, TEACHER)]
    settings = {"discount": discount, "center": center}
    assert torch.equal(
        reverse_kl(*dirty, MASK, **settings), reverse_kl(STUDENT, TEACHER, MASK, **settings)
    )


@pytest.mark.parametrize("center", [False, True])
def test_a_batch_without_sampled_tokens_gets_zeros(center):
    nothing = torch.full((2, 3), math.nan)
    advantages = reverse_kl(nothing, nothing, torch.zeros(2, 3), center=center, discount=0.5)
    assert torch.equal(advantages, torch.zeros(2, 3))


def test_a_response_of_no_positions_is_no_error():
    assert reverse_kl(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0)).shape == (2, 0)


def test_equal_log_probabilities_give_zeros_without_a_minus_sign():
    advantages = reverse_kl(STUDENT, STUDENT, MASK, discount=0.5)
    assert not advantages.any()
    assert not torch.signbit(advantages).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32])
def test_any_kind_of_mask_and_the_dtype_of_the_student(dtype, mask_dtype):
    advantages = reverse_kl(STUDENT.to(dtype), TEACHER.to(dtype), MASK.to(mask_dtype))
    assert advantages.dtype == dtype
    torch.testing.assert_close(advantages, -LOG_RATIO.to(dtype), atol=0.02, rtol=0)


def test_inputs_are_not_changed_and_no_graph_is_kept():
    student = STUDENT.clone().requires_grad_()
    assert not reverse_kl(student, TEACHER, MASK, discount=1.0, center=True).requires_grad
    assert torch.equal(student, STUDENT)


@pytest.mark.parametrize("name", ["student_log_probs", "teacher_log_probs"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sampled_token_without_a_log_probability_is_refused_and_counted(name, value):
    batch = {"student_log_probs": STUDENT.clone(), "teacher_log_probs": TEACHER.clone()}
    batch[name][0, 1:3] = value
    with pytest.raises(ValueError, match=f"{name} of 2 sampled tokens are NaN or infinite"):
        reverse_kl(**batch, response_mask=MASK)


@pytest.mark.parametrize("coef", [-0.1, math.nan, math.inf])
def test_a_coefficient_that_is_negative_or_not_finite_is_refused(coef):
    with pytest.raises(ValueError, match="coef must be finite and >= 0"):
        reverse_kl(STUDENT, TEACHER, MASK, coef=coef)


@pytest.mark.parametrize("discount", [-0.1, 1.1, math.nan])
def test_a_discount_outside_0_to_1_is_refused(discount):
    with pytest.raises(ValueError, match=r"discount must be in \[0, 1\]"):
        reverse_kl(STUDENT, TEACHER, MASK, discount=discount)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"teacher_log_probs \(1, 1\)"):
        reverse_kl(STUDENT, TEACHER[:, :1], MASK)


def test_a_student_that_would_broadcast_is_refused():
    with pytest.raises(ValueError, match=r"student_log_probs \(1, 1\)"):
        reverse_kl(STUDENT[:, :1], TEACHER, MASK)


def test_a_mask_that_would_broadcast_is_refused():
    with pytest.raises(ValueError, match=r"response_mask \(1, 1\)"):
        reverse_kl(STUDENT, TEACHER, MASK[:, :1])


def test_the_mean_of_one_token_is_that_token():
    one = torch.tensor([[0, 1, 0, 0, 0, 0]])
    assert not reverse_kl(STUDENT, TEACHER, one, center=True).any()


# A student and a teacher over eight actions, and their exact reverse KL.
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(8, dtype=torch.float64, generator=GENERATOR)
TEACHER_LOG_PROBS = torch.randn(8, dtype=torch.float64, generator=GENERATOR).log_softmax(-1)


def analytic_gradient():
    logits = LOGITS.clone().requires_grad_()
    log_probs = logits.log_softmax(-1)
    (log_probs.exp() * (log_probs - TEACHER_LOG_PROBS)).sum().backward()
    return logits.grad


def score_gradients(advantages):
    """For each action the gradient of −A log p(action), the loss it makes when sampled."""
    return -advantages.unsqueeze(-1) * (torch.eye(8, dtype=torch.float64) - LOGITS.softmax(-1))


def test_the_expected_policy_gradient_is_that_of_the_reverse_kl():
    log_probs = LOGITS.log_softmax(-1)
    advantages = reverse_kl(log_probs[None], TEACHER_LOG_PROBS[None], torch.ones(1, 8))[0]
    expected = (log_probs.exp().unsqueeze(-1) * score_gradients(advantages)).sum(0)
    assert (expected - analytic_gradient()).abs().max() < 1e-10


def test_sampled_policy_gradients_average_to_that_of_the_reverse_kl():
    log_probs = LOGITS.log_softmax(-1)
    samples = torch.multinomial(
        log_probs.exp(), 200_000, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    advantages = reverse_kl(
        log_probs[samples][None], TEACHER_LOG_PROBS[samples][None], torch.ones(1, len(samples))
    )[0]
    by_action = torch.eye(8, dtype=torch.float64)[samples] - log_probs.exp()
    gradients = -advantages.unsqueeze(-1) * by_action
    error = (gradients.mean(0) - analytic_gradient()).abs()
    standard_error = gradients.std(0) / len(samples) ** 0.5
    assert (error < 5 * standard_error).all()
    assert (5 * standard_error < 0.1 * analytic_gradient().abs().max()).all()  # and that is small


def test_a_log_ratio_that_is_back_propagated_teaches_nothing():
    # Σ p ∇(log p − log q) = ∇ Σ p = 0, while the true gradient is not: why such a loss is refused.
    logits = LOGITS.clone().requires_grad_()
    log_ratio = logits.log_softmax(-1) - TEACHER_LOG_PROBS
    (LOGITS.softmax(-1) * log_ratio).sum().backward()
    assert logits.grad.abs().max() < 1e-12
    assert analytic_gradient().abs().max() > 0.1


def test_sdpos_form_on_sampled_tokens_is_this_advantage():
    # SDPO without logits (2601.20802): loss_t = sg(log p − log q) · log p = −A_t log p, so that
    # A = ln(.1/.5), ln(.2/.1), 0, and the gradient of the mean is −A / 3. The mean itself is
    # (1.609438 ln .5 − .693147 ln .1 + 0) / 3 = (−1.115577 + 1.596030) / 3.
    log_probs = torch.tensor([[0.5, 0.1, 0.25]], dtype=torch.float64).log().requires_grad_()
    teacher = torch.tensor([[0.1, 0.2, 0.25]], dtype=torch.float64).log()
    advantages = reverse_kl(log_probs, teacher, torch.ones(1, 3))
    loss = (-advantages * log_probs).mean()
    loss.backward()
    expected = torch.tensor([[-1.609438, 0.693147, 0]], dtype=torch.float64)
    torch.testing.assert_close(advantages, expected, atol=1e-6, rtol=0)  # six decimals
    gradient = torch.tensor([[0.536479, -0.231049, 0]], dtype=torch.float64)
    torch.testing.assert_close(log_probs.grad, gradient, atol=1e-6, rtol=0)
    assert loss.item() == pytest.approx(0.160151, abs=1e-6)
