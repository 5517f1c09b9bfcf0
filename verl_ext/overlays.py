"""What may stand behind ``+paper=``, ``+task=`` and ``+scale=``, and in which order.

Pure text work on a command line, so that a misspelt overlay is answered with the nearest name
before Hydra composes anything.
"""

import re
from collections.abc import Sequence
from importlib.resources import files

from verl_ext.suggest import nearest

GROUPS = ("paper", "task", "scale")
_OVERRIDE = re.compile(r"^(?P<plus>\+{0,2})(?P<group>paper|task|scale)=(?P<value>.*)$")


class OverlayError(ValueError):
    """A command line whose overlays cannot mean what their writer wanted."""


def names(group: str) -> list[str]:
    """The overlays of a group, sorted.

    Args:
        group: ``paper``, ``task`` or ``scale``.
    """
    folder = files("verl_ext.recipes") / group
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def check(arguments: Sequence[str]) -> None:
    """Refuses overlays that are unknown, in the wrong order or with the wrong prefix.

    Args:
        arguments: command-line overrides as typed, other arguments among them.

    Raises:
        OverlayError: with the line to type instead.
    """
    found = [match for text in arguments if (match := _OVERRIDE.match(text))]
    position = {match["group"]: index for index, match in enumerate(found)}
    for match in found:
        _check_names(match)
        _check_prefix(match, with_scale="scale" in position)
    if "scale" in position and position.get("paper", -1) > position["scale"]:
        by_group = {match["group"]: match[0] for match in found}
        raise OverlayError(
            "overlays in the wrong order: the later one wins, and a paper's batch sizes would beat "
            f"the machine's. Type: {by_group['paper']} {by_group['scale']}"
        )


def _check_names(match: re.Match[str]) -> None:
    group, value = match["group"], match["value"]
    for name in re.split(r"[\[\],\s'\"]+", value):
        if name and name not in names(group):
            raise OverlayError(
                f"unknown {group} '{name}': did you mean {match['plus']}{group}="
                f"{nearest(name, names(group))}? There are: {', '.join(names(group))}"
            )


def _check_prefix(match: re.Match[str], *, with_scale: bool) -> None:
    group, value, plus = match["group"], match["value"], match["plus"]
    if group != "task" and plus != "+":
        raise OverlayError(f"'{match[0]}': an overlay is added. Type: +{group}={value}")
    if group == "task" and with_scale and plus:
        raise OverlayError(
            f"'{match[0]}': +scale already brings a task, so this replaces it. Type: task={value}"
        )
    if group == "task" and not with_scale and plus != "+":
        raise OverlayError(
            f"'{match[0]}': without +scale there is no task to replace. Type: +task={value}"
        )
