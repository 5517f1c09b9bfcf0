"""Which files of a folder are data, and which split each belongs to.

The split is told from the name, and from nothing else: of the file (``train.jsonl``,
``test-00000-of-00001.parquet``, ``gsm8k_train.jsonl``), or of a folder above it that is called
``train`` or ``test``.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from verl_ext.data.records import SUFFIXES

SPLITS = ("train", "test")
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
# Shards as the Hugging Face hub writes them: -00000-of-00002, in older files with a hash behind.
_STEM = re.compile(r"(?:.*[-_.])?(train|test)(?:-\d+-of-\d+(?:-[0-9a-f]+)?)?", re.IGNORECASE)


@dataclass(frozen=True)
class DataFile:
    """A file to read.

    Attributes:
        path: where it is.
        split: "train" or "test".
        source: what counts as one copy of the data: the file, or for files of a single problem
            the path that the user gave.
    """

    path: Path
    split: str
    source: str


def find(paths: Sequence[Path], preferred: Sequence[str]) -> tuple[list[DataFile], list[Path]]:
    """Returns the data files below the paths, and those left out because no split can be told.

    Args:
        paths: folders and files, as the user named them.
        preferred: the first folder of such a name stands for its siblings, which hold other
            versions or parts of the same problems (``main`` beside ``socratic``).

    Raises:
        FileNotFoundError: a path is not there.
        ValueError: a path is an archive or of another type; a named file tells no split, or both;
            a folder has no data file with a split.
    """
    found: list[DataFile] = []
    left_out: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"--from {path}: there is no such file or folder")
        if path.is_file():
            found.append(_named(path))
            continue
        files = sorted(_below(path, preferred), key=_reading_order)
        splits = {file: _split(file, path) for file in files}
        _refuse_if_empty(path, splits)
        for file, split in splits.items():
            if split is None:
                left_out.append(file)
            else:
                source = str(path if file.suffix == ".json" else file)
                found.append(DataFile(file, split, source))
    return found, left_out


def _named(path: Path) -> DataFile:
    if path.suffix.lower() in ARCHIVES:
        raise ValueError(f"--from {path}: this is an archive; unpack it and name its folder")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--from {path}: expected a folder or a file {', '.join(SUFFIXES)}")
    split = _split(path, path.absolute().parent)
    if split is None:
        raise ValueError(
            f"--from {path}: neither the file's name nor its folder's says train or test; rename "
            "it, for example to train" + path.suffix
        )
    return DataFile(path, split, str(path))


def _below(folder: Path, preferred: Sequence[str]) -> Iterator[Path]:
    for name in preferred:
        files = list(_below(folder / name, preferred)) if (folder / name).is_dir() else []
        if any(file.suffix in SUFFIXES for file in files):
            yield from files
            return
    for entry in folder.iterdir():
        if entry.name.startswith("."):  # .git, .cache: not what somebody put there
            continue
        if entry.is_dir():
            yield from _below(entry, preferred)
        elif entry.suffix in SUFFIXES or entry.suffix.lower() in ARCHIVES:
            yield entry


def _refuse_if_empty(folder: Path, splits: dict[Path, str | None]) -> None:
    if any(split is not None for split in splits.values()):
        return
    archives = [file for file in splits if file.suffix.lower() in ARCHIVES]
    if archives:
        raise ValueError(f"--from {folder}: there is only an archive, {archives[0]}; unpack it")
    seen = f", only {', '.join(file.name for file in list(splits)[:5])}" if splits else ""
    raise ValueError(
        f"--from {folder}: no file {', '.join(SUFFIXES)} whose name or folder says train or "
        f"test{seen}"
    )


def _split(file: Path, root: Path) -> str | None:
    """The split that the file's name tells, else the nearest folder's, up to ``root`` itself."""
    if file.suffix not in SUFFIXES:
        return None
    match = _STEM.fullmatch(file.stem)
    if match:
        if set(SPLITS) <= set(re.split(r"[^a-z]+", file.stem.lower())):
            raise ValueError(f"{file}: the name says both train and test; rename it to one")
        return match[1].lower()
    for folder in file.absolute().parents:
        if folder.name.lower() in SPLITS:
            return folder.name.lower()
        if folder == root.absolute():
            break
    return None


def _reading_order(file: Path) -> list[tuple[bool, int, str]]:
    """Folder by folder, numbers as numbers: 2.json before 10.json."""
    return [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in file.with_suffix("").parts]
