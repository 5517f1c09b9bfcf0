"""The fenced code blocks of the documentation, and what their commands are."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FENCE = re.compile(r"^```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
# What a reader puts in the place of a word in capitals, as far as a check needs a true one.
PLACEHOLDERS = {
    "<your own overrides>": "data.train_files=train.parquet data.val_files=val.parquet "
    "actor_rollout_ref.model.path=model critic.model.path=model "
    "actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n=8",
    "TEACHER_MODEL": "teacher",
    "YOUR_TRAIN.parquet": "train.parquet",
    "YOUR_VAL.parquet": "val.parquet",
    "DIR/train.parquet": "train.parquet",
    "DIR/test.parquet": "val.parquet",
    "HOST/": "127.0.0.1/",
    "HEAD_ADDRESS": "127.0.0.1",
}
ASSIGNMENT = re.compile(r"^(?P<name>[A-Z_]+)=(?P<value>\S*|'[^']*'|\"[^\"]*\")$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: its file, from the root.
        line: of its fence, from 1.
        language: behind the fence; empty if none.
        text: inside.
        before: the paragraph above it.
    """

    page: str
    line: int
    language: str
    text: str
    before: str

    @property
    def place(self):
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command line of a bash block.

    Attributes:
        place: page and line of its block.
        words: of the command, without what is set before it.
        environment: what it is run with, by ``export`` and by assignments on its own line.
    """

    place: str
    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self):
        return f"{self.place}: {shlex.join(self.words)}"


def pages():
    """Every page, from the root."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in found]


def blocks(page):
    """The blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()].rstrip().rsplit("\n\n", 1)[-1]
        line = text[: match.start()].count("\n") + 1
        found.append(Block(page, line, match["language"], match["text"], before))
    assert text.count("\n```") + text.startswith("```") == 2 * len(found), f"{page}: an odd fence"
    return found


def scripts(page):
    """The benchmarks that a page names in its text, with their arguments."""
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    found = re.findall(r"`(?:python )?(benchmarks/\w+\.py[^`]*)`", text)
    return [Command(page, ("python", *shlex.split(each))) for each in found]


def commands(block):
    """The commands of a bash block, variables replaced and placeholders filled in."""
    text = block.text.replace("\\\n", " ")
    for word, value in PLACEHOLDERS.items():
        text = text.replace(word, value)
    variables, exported, found = {}, {}, []
    for line in text.splitlines():
        assigned = ASSIGNMENT.match(line.strip())
        if assigned:
            (variables[assigned["name"]],) = shlex.split(assigned["value"]) or [""]
            continue
        for name, value in variables.items():
            line = re.sub(rf"\${name}\b", lambda _, value=value: value, line)
        words = shlex.split(line, comments=True)
        environment = dict(exported)
        while words and (set_here := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
            environment[set_here[1]] = set_here[2]
            words = words[1:]
        if words[:1] == ["export"]:
            exported |= dict(word.split("=", 1) for word in words[1:])
        elif words:
            found.append(Command(block.place, tuple(words), environment))
    return found
