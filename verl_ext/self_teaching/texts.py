"""The wording of a teacher prompt."""

from dataclasses import dataclass
from string import Formatter


@dataclass(frozen=True)
class Texts:
    """The parts around what a teacher is shown, each a part of the prompt of its own.

    Placeholders are Python's: a brace that is none is written twice. A text of several lines ends
    without a line break (in YAML ``|-``, not ``|``).

    Attributes:
        solution: has the placeholder ``{solution}``. Shown to successful rows too, so it does not
            say that they failed.
        feedback: has ``{feedback}``; shown to failed rows alone.
        attempt: has ``{attempt}``; shown to failed rows alone.
        instruction: the last part. Shown to successful rows too.
        marker: stands for what was cut out of a section that was too long.

    Raises:
        ValueError: a placeholder is missing, unknown, formatted or written twice; a brace is none;
            a text is blank, or but for the marker begins or ends with whitespace.

    Deviations: the wording is ours; the authors' (lasgroup/SDPO) serves the same parts.
    """

    solution: str = "Here is a response to this question that was judged correct:\n\n{solution}"
    feedback: str = "An earlier response was judged wrong. What was said about it:\n\n{feedback}"
    attempt: str = "This is the earlier response that was judged wrong:\n\n{attempt}"
    instruction: str = "Now answer the question at the beginning, and answer it correctly."
    marker: str = " ... "

    def __post_init__(self) -> None:
        for name in ("solution", "feedback", "attempt", "instruction"):
            text = getattr(self, name)
            if not text or text != text.strip():
                raise ValueError(
                    f"texts.{name} must not be blank nor begin or end with whitespace (in YAML |- "
                    f"and not |), got {text!r}"
                )
            _require_placeholder(name, text, None if name == "instruction" else name)
        if not self.marker.strip():
            raise ValueError("texts.marker must not be blank: the teacher would not see the cut")


def _require_placeholder(name: str, text: str, wanted: str | None) -> None:
    """Refuses a text whose placeholders are not exactly the one wanted, as it stands."""
    try:
        fields = [
            (field, form, conversion)
            for _, field, form, conversion in Formatter().parse(text)
            if field is not None
        ]
    except ValueError as error:
        raise ValueError(
            f"texts.{name}: {error}; write {{{{ and }}}} for a brace that is no placeholder"
        ) from error
    for field, form, conversion in fields:
        if field != wanted or form or conversion:
            shown = field + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            allowed = f"only {{{wanted}}}" if wanted else "none"
            raise ValueError(
                f"texts.{name} has an unknown placeholder {{{shown}}}, allowed is {allowed}; write "
                "{{ and }} for a brace that is no placeholder"
            )
    if len(fields) != (wanted is not None):
        raise ValueError(f"texts.{name} needs {{{wanted}}} once, got it {len(fields)} times")
