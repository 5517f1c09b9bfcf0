"""Where each task's data lives, and the command that makes it.

Light on purpose: the driver reads it before a run, to say what makes a file that is not there.
"""

from pathlib import Path

STRING_COMPOSITION = Path("data/string_composition")
# What a user types; FOLDER is what they have on disk.
_MAKERS = {
    "gsm8k": "verl-ext convert gsm8k --from FOLDER",
    "math": "verl-ext convert math --from FOLDER",
}


def default_folder(task: str) -> Path:
    """Returns ``~/data/TASK``, where the task's recipe looks for its files."""
    return Path.home() / "data" / task


def maker(file: str | Path) -> str | None:
    """Returns the command that makes a data file of one of our tasks, None for any other file.

    Args:
        file: as the run's configuration names it: absolute, from home (``~``), or from where the
            run is started.
    """
    folder = Path(file).expanduser().absolute().parent
    if folder == STRING_COMPOSITION.absolute():
        return f"verl-ext toy string_composition --out {STRING_COMPOSITION}"
    for task, command in _MAKERS.items():
        if folder == default_folder(task):
            return command
    return None
