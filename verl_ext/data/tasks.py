r"""What a row of each public data set says, and how its task asks for the answer.

``gsm8k``: Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021,
https://arxiv.org/abs/2110.14168; openai/grade-school-math, on the Hugging Face hub openai/gsm8k.

``math``: Hendrycks et al., "Measuring Mathematical Problem Solving With the MATH Dataset", 2021,
https://arxiv.org/abs/2103.03874; hendrycks/math, on the hub DigitalLearningGmbH/MATH-lighteval and,
500 test problems with the answer beside the solution, HuggingFaceH4/MATH-500.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from verl_ext.data.records import Record

MARKER = "####"
QA_INSTRUCTION = (
    "Think between <think> and </think>. Then write the answer, and nothing else, between <answer> "
    "and </answer>."
)
_NUMBER = re.compile(r"-?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?")


@dataclass(frozen=True)
class Example:
    """One problem.

    Attributes:
        question: as published.
        ground_truth: what the verifier compares with.
        details: further text for ``extra_info``, one entry for each of the task's ``details``.
    """

    question: str
    ground_truth: str
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """How rows become problems, and problems prompts.

    Attributes:
        name: of the task's recipe.
        data_source: by which verl chooses the verifier.
        instruction: stands below the question and asks for what the verifier reads.
        read: makes a problem of a row; ValueError with the row's place where it cannot.
        details: names of the columns that ``read`` keeps.
        preferred: the folders of which the first counts where its siblings hold other versions or
            parts of the same problems.
        ability: verl's column of this name.
    """

    name: str
    data_source: str
    instruction: str
    read: Callable[[Record], Example]
    details: tuple[str, ...]
    preferred: tuple[str, ...]
    ability: str = "math"


def read_gsm8k(record: Record) -> Example:
    """Reads ``question`` and ``answer``, a worked solution that ends in ``#### 42``.

    The number loses its thousands separators and a currency sign, as verl's verifier compares it.

    Raises:
        ValueError: a key is missing, or what stands behind the last ``####`` is not one number.
    """
    question, answer = record.text("question"), record.text("answer")
    _, marker, tail = answer.rpartition(MARKER)
    if not marker:
        raise ValueError(f"{record.where}: expected '{MARKER} 42' at the end of 'answer', found no "
                         f"{MARKER}")  # fmt: skip
    number = tail.replace("$", "").strip().rstrip(".")
    if not _NUMBER.fullmatch(number):
        raise ValueError(
            f"{record.where}: expected one number behind '{MARKER}', got {tail.strip()!r}"
        )
    return Example(question, number.replace(",", ""), {"answer": answer})


def read_math(record: Record) -> Example:
    r"""Reads ``problem``, ``solution``, ``level``, ``type`` or ``subject``, maybe ``answer``.

    Without ``answer``, the ground truth is the content of the solution's last box, as published.

    Raises:
        ValueError: a key is missing, the level is none of Level 1 to 5 or ?, or the solution has
            no closed, filled ``\boxed{}``.
    """
    question, solution = record.text("problem"), record.text("solution")
    details = {
        "answer": solution,
        "level": _level(record),
        "type": record.text("type", "subject"),
    }
    if record.fields.get("answer") is not None:
        return Example(question, record.text("answer"), details)
    truth = last_boxed(solution)
    if not truth:
        raise ValueError(
            f"{record.where}: expected an answer in \\boxed{{}} in 'solution', found "
            + ("none" if truth is None else "an empty one")
        )
    return Example(question, truth, details)


def question_answer(question: str, answer: str, data_source: str) -> Task:
    """The task of a data set of one's own: questions with reference answers, and no verifier.

    For rewards that compare with the reference, such as its probability.

    Args:
        question: the column of the questions.
        answer: the column of the reference answers; white space around one is taken off.
        data_source: what the rows are called.

    Raises:
        ValueError: the columns are one, or a name is blank.
    """
    for name, value in (("question", question), ("answer", answer), ("data source", data_source)):
        if not value.strip():
            raise ValueError(f"the {name} must have a name, got {value!r}")
    if question == answer:
        raise ValueError(f"question and answer are one column, {question!r}")

    def read(record: Record) -> Example:
        for name in (question, answer):
            if name not in record.fields:
                raise ValueError(
                    f"{record.where}: expected the key '{name}', found {', '.join(record.fields)}. "
                    "Columns of other names: --question COLUMN --answer COLUMN"
                )
        return Example(record.text(question), record.text(answer).strip())

    return Task("qa", data_source, QA_INSTRUCTION, read, (), (), ability="qa")


def last_boxed(solution: str) -> str | None:
    r"""Returns what the last ``\boxed`` or ``\fbox`` holds; None if there is none or it is open.

    ``\boxed 5``, which a few solutions have, holds what stands before the next ``$``. Braces are
    counted blindly, as the verifier counts them.
    """
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        return None
    content = solution[start:].removeprefix("\\boxed").removeprefix("\\fbox")
    if not content.lstrip().startswith("{"):
        return content.split("$")[0].strip()
    content = content.lstrip()
    depth = 0
    for end, character in enumerate(content):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return content[1:end].strip()
    return None


def _level(record: Record) -> str:
    value = record.fields.get("level")
    level = f"Level {value}" if isinstance(value, int) else value
    if level not in ("Level 1", "Level 2", "Level 3", "Level 4", "Level 5", "Level ?"):
        raise ValueError(f"{record.where}: expected 'level' as 1 to 5 or 'Level 1' to 'Level 5', "
                         f"got {value!r}")  # fmt: skip
    return str(level)


TASKS: dict[str, Task] = {
    "gsm8k": Task(
        name="gsm8k",
        data_source="openai/gsm8k",
        instruction="Think step by step. Write the final answer on the last line, after "
        '"#### ", as a plain number without a unit, a currency sign or a full stop.',
        read=read_gsm8k,
        details=("answer",),
        preferred=("main",),
    ),
    "math": Task(
        name="math",
        data_source="DigitalLearningGmbH/MATH-lighteval",
        instruction="Think step by step, and end with the final answer in \\boxed{}.",
        read=read_math,
        details=("answer", "level", "type"),
        preferred=("data", "all", "default"),
    ),
}
