"""Numbers and columns as people read them in a terminal."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], names: int) -> list[str]:
    """One line for each row: the first ``names`` columns flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_cells(row, widths, names)) for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int], names: int) -> list[str]:
    pairs = list(zip(row, widths, strict=True))
    left = [cell.ljust(width) for cell, width in pairs[:names]]
    return left + [cell.rjust(width) for cell, width in pairs[names:]]


def number(value: float | None, form: str = ".3f") -> str:
    """The value as ``form`` has it, a dash where there is none."""
    return "-" if value is None else format(value, form)


def duration(seconds: float) -> str:
    """Seconds as "1 h 2 min", "3 min 4 s" or "5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
