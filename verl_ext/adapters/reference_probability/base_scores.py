"""Base scores: the probability of each reference without reasoning, kept on disk.

A run's first policy computes them once; a later run of the same model, tokenizer and engine finds
them, question by question.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from verl_ext.adapters.errors import SettingsError

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "config.json")


def question_key(chat: Any, reference: str) -> str:
    """Names a question and its reference, whatever process asks.

    Args:
        chat: messages, or a prompt of another kind.
        reference: the answer.
    """
    text = json.dumps([chat, reference], sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def fingerprint(*parts: Any) -> str:
    """A short name of everything that decides a base score beside the question."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def model_identity(path: str) -> list[Any]:
    """A model by its weights' names, sizes and times of change: in its folder, or in the hub's."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = _downloaded(path) or folder
    files = sorted({file for pattern in WEIGHTS for file in folder.glob(pattern)})
    stats = [(file.name, file.stat()) for file in files]
    sizes = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return [str(path), folder.name, sizes]


def _downloaded(name: str) -> Path | None:
    """The folder of the hub's model of that name, which is called after its commit."""
    try:
        file = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # an address of another kind
        return None
    return Path(file).parent if isinstance(file, str) else None


class BaseScores:
    """Scores by :func:`question_key`.

    Args:
        file: where they are kept between runs; read now if it is there.

    Attributes:
        file: the same.
        hits: how many of the questions asked for first were known from the file; see
            :meth:`missing`.

    Raises:
        SettingsError: the file is damaged.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.hits = 0
        self._of_file: dict[str, float] = {}
        self._scores: dict[str, float] = {}
        if file.exists():
            try:
                self._of_file = {str(k): float(v) for k, v in json.loads(file.read_text()).items()}
            except (ValueError, AttributeError) as error:
                raise SettingsError(
                    f"{file}, the cache of base scores, is damaged ({error}). Delete it; the run "
                    "computes them again"
                ) from error

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Takes up what the file knows of some questions; returns the others, each once."""
        wanted = list(dict.fromkeys(keys))
        self._scores |= {key: self._of_file[key] for key in wanted if key in self._of_file}
        left = [key for key in wanted if key not in self._scores]
        self.hits = len(wanted) - len(left)
        return left

    def update(self, scores: Mapping[str, float], *, keep: bool = False) -> None:
        """Takes up scores; with ``keep`` for later runs too.

        A killed process leaves no half of a file. Of two runs that write at once the later one's
        stands; what is lost is computed again.
        """
        self._scores.update(scores)
        if not keep or not scores:
            return
        self._of_file.update(scores)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(f"{self.file.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(self._of_file))
        os.replace(partial, self.file)

    def __getitem__(self, key: str) -> float:
        return self._scores[key]

    def __contains__(self, key: str) -> bool:
        return key in self._scores

    def __len__(self) -> int:
        return len(self._scores)

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint: a resumed run subtracts the same numbers, with or without the file."""
        return dict(self._scores)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Takes up what :meth:`state_dict` gave."""
        self._scores.update(state)
