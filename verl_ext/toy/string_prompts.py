"""What a model is shown of a string program: its source and the question.

Source: PRIME-RL/RL-Compositionality. Stage 1 shows the definitions of the functions, stage 2 their
names only.

Deviations: the sentences are ours; definitions stand in the order of their numbers, where the
authors' follow a Python set and change with PYTHONHASHSEED.
"""

import inspect

from verl_ext.reward_fns.string_functions import FUNCTIONS
from verl_ext.toy.string_expressions import function_ids, source
from verl_ext.toy.string_programs import Program

DEFINITIONS = ("none", "used", "all")

QUESTION = """Here is a Python program:

```python
{program}
```

Without running or writing code, work out what `main_solution("{text}")` returns. Think step by \
step, then give the final answer in json, with the returned string as its value: \
{{"output": "<returned string>"}}"""


def program_text(program: Program, *, definitions: str = "none") -> str:
    """Returns the program's source, after the definitions asked for.

    Args:
        program: the program.
        definitions: "none" (stage 2: names only), "used" (stage 1: those of the functions that
            occur, as the authors show them) or "all" (all 25; a prompt of about 4,400 characters).

    Raises:
        ValueError: definitions is none of these.
    """
    if definitions not in DEFINITIONS:
        raise ValueError(f"definitions must be one of {DEFINITIONS}, got {definitions!r}")
    shown = {"none": set(), "used": function_ids(program.expr), "all": set(FUNCTIONS)}[definitions]
    parts = [inspect.getsource(FUNCTIONS[k]).rstrip() for k in sorted(shown)]
    return "\n\n\n".join([*parts, f"def main_solution(x):\n    return {source(program.expr)}"])


def prompt(program: Program, *, definitions: str = "none") -> str:
    """Returns the user message: the program and the question.

    Args:
        program: the program.
        definitions: as in :func:`program_text`.
    """
    text = program_text(program, definitions=definitions)
    return QUESTION.format(program=text, text=program.text)
