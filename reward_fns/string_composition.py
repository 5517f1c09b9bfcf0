"""String composition: predict what a program of nested string functions returns.

Source: Yuan et al., "From f(x) and g(x) to f(g(x))", 2025; PRIME-RL/RL-Compositionality.
"""

from verl_ext.reward_fns.string_functions import FUNCTIONS, PARAMETERS, func_7


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
    return func_7(text, *params) if func_id == 20 else FUNCTIONS[func_id](text, *params)
