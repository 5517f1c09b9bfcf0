"""String composition: predict what a program of nested string functions returns.

Source: Yuan et al., "From f(x) and g(x) to f(g(x)): LLMs Learn New Skills in RL by Composing Old
Ones", 2025, https://arxiv.org/abs/2509.25123; PRIME-RL/RL-Compositionality.
"""

import difflib
import json

from verl_ext.reward_fns.string_functions import FUNCTIONS, PARAMETERS


def apply(func_id: int, text: str, *params: int | str) -> str:
    """Returns func_<func_id>(text, *params).

    Args:
        func_id: 0 to 24.
        text: the string to transform, of any length.
        params: what the function takes besides: a count (1, 18), a rotation (8, 19), a shift (11),
            a depth (23, 24), or a text (5, 6, 7, 13, 20); nothing for the others.

    Returns:
        The transformed string.

    Raises:
        ValueError: there is no such function, the number of parameters is wrong, or one is not
            of its function's type.

    Degenerate: an empty text is legal everywhere.

    Deviations: none in results. Function 20 runs as function 7, which returns the same, since its
        recursion would reach Python's limit at about a thousand characters.
    """
    if func_id not in FUNCTIONS:
        raise ValueError(f"func_id must be 0 to 24, got {func_id!r}")
    types = PARAMETERS[func_id]
    if len(params) != len(types):
        raise ValueError(f"func_{func_id} takes {len(types)} parameter(s), got {params!r}")
    for param, wanted in zip(params, types, strict=True):
        if not isinstance(param, wanted) or isinstance(param, bool):
            raise ValueError(f"func_{func_id} takes {wanted.__name__}, got {param!r}")
    result: str = FUNCTIONS[7 if func_id == 20 else func_id](text, *params)
    return result


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, object] | None = None,
    *,
    binary: bool = False,
    **kw: object,
) -> dict[str, float]:
    """Returns verl's reward of one response: +1 exact, 0 wrong, -1 without an answer to read.

    Args:
        data_source: unused; verl passes it.
        solution_str: the decoded response.
        ground_truth: the string that the program returns.
        extra_info: unused; verl passes it.
        binary: score 0 where an answer cannot be read, as the paper writes, not -1, as its code
            does.
        kw: only what verl itself adds when a reward model is up, ``reward_router_address`` and
            ``reward_model_tokenizer``; unused.

    Returns:
        ``score`` in {-1, 0, 1} (or {0, 1}), ``acc`` in {0, 1} and ``parsed`` in {0, 1}. Numbers
        only, and always the same keys, because verl averages each over the validation set.

    Raises:
        ValueError: an unknown keyword (a misspelt ``reward_kwargs`` entry), a ``binary`` that is
            not a bool, or a ground truth that is not a string.

    Degenerate: an empty ground truth is matched by ``{"output": ""}`` alone; an empty response
        has no answer.

    Deviations: none in the scores; see :func:`extract_answer` for the parser.
    """
    for name in sorted(kw.keys() - {"reward_router_address", "reward_model_tokenizer"}):
        near = difflib.get_close_matches(name, ["binary"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown reward_kwargs entry {name!r}; allowed: 'binary'{hint}")
    if not isinstance(binary, bool):
        raise ValueError(f"binary must be true or false, got {binary!r}")
    if not isinstance(ground_truth, str):
        raise ValueError(f"ground_truth must be a string, got {ground_truth!r}")
    parsed, answer = extract_answer(solution_str)
    correct = parsed and isinstance(answer, str) and answer == ground_truth
    score = 1.0 if correct else 0.0 if parsed or binary else -1.0
    return {"score": score, "acc": float(correct), "parsed": float(parsed)}


def extract_answer(response: str) -> tuple[bool, object]:
    r"""Reads the value of ``"output"`` from the response's last JSON object.

    The object is the last closed ```json fence if the response opens one; else the last block of
    balanced braces. Braces are counted blindly, as the authors count them: one left open hides
    every later answer, one inside a string cuts its block short, and a later block that is not
    JSON counts as the answer. A model learns to end on a clean object.

    Args:
        response: any text.

    Returns:
        Whether there is an answer, and the answer: any JSON value, None where there is none.

    Deviations: where several fences stand, the last one counts, and a last fence without its end
        is no answer; the braces of ``\boxed{...}`` and the escapes ``\{ \}`` inside are removed
        only if the block as it stands is not JSON. The authors' order of these two is not known to
        us beyond their results on the vectors in the tests.
    """
    opened = response.rfind("```json")
    if opened >= 0:
        block, closed, _ = response[opened + len("```json") :].partition("```")
        candidates = [block] if closed else []
    else:
        candidates = _last_balanced_block(response)
    for candidate in candidates:
        try:
            value = json.loads(candidate.replace("\n", ""))
        except (ValueError, RecursionError):  # RecursionError: thousands of nested brackets
            continue
        if isinstance(value, dict) and "output" in value:
            return True, value["output"]
        return False, None
    return False, None


def _last_balanced_block(response: str) -> list[str]:
    """Returns the last balanced {...} as it stands, then what it may be after undoing LaTeX."""
    depth, start, found = 0, 0, None
    for i, c in enumerate(response):
        if c == "{":
            start = i if depth == 0 else start
            depth += 1
        elif c == "}" and depth > 0:
            depth -= 1
            found = (start, i + 1) if depth == 0 else found
    if found is None:
        return []
    block = response[slice(*found)]
    plain = block.replace("\\{", "{").replace("\\}", "}")
    inner = [plain[1:-1]] if response[: found[0]].endswith("\\boxed") else []
    return [block, plain, *inner]
