"""Folders that are built once and trusted only when whole.

A folder is built beside its final place and renamed when it is finished, so a killed build leaves
nothing that looks like a result. A manifest of sizes and SHA-256 sums, checked on every load,
catches what a rename cannot: files that a power cut or a full disk cut short.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"


def cache_root(cache_dir: Path | None = None) -> Path:
    """Returns ``cache_dir``, else ``$VERL_EXT_CACHE``, else the user's cache + ``verl_ext``."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser().absolute()
    if own := os.environ.get("VERL_EXT_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser().absolute() / "verl_ext"


def digest(path: Path) -> str:
    """Returns the SHA-256 sum of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(folder: Path) -> None:
    """Lists every file below ``folder`` with its size in bytes and its SHA-256 sum."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": digest(path)}
        for path in files
    }
    (folder / MANIFEST).write_text(json.dumps({"files": entries}, indent=1), encoding="utf-8")


def what_is_wrong(folder: Path) -> str | None:
    """Returns why the folder cannot be used ("no manifest", "truncated: x"), None if it can."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return f"no {MANIFEST}"
    try:
        entries = dict(json.loads(manifest.read_text(encoding="utf-8"))["files"])
    except (ValueError, KeyError, TypeError):
        return f"unreadable {MANIFEST}"
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            return f"missing: {name}"
        if path.stat().st_size != entry["size"] or digest(path) != entry["sha256"]:
            return f"damaged: {name}"
    return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on ``path``; the system drops it when the process dies."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"verl_ext: waiting for another process that builds {path.stem}", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Returns ``folder``, whole; calls ``build(empty folder)`` first if it is missing or damaged.

    Two processes that ask at once build once; the second waits for the first.

    Args:
        folder: where the result lives; its parent is created.
        build: fills the folder it is given; if it raises, nothing is left behind.
    """
    if what_is_wrong(folder) is None:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / f"{folder.name}.lock"):
        reason = what_is_wrong(folder)
        if reason is None:
            return folder
        if folder.exists():
            print(f"verl_ext: rebuilding {folder} ({reason})", file=sys.stderr)
            shutil.rmtree(folder)
        for left_over in folder.parent.glob(f"{folder.name}.partial-*"):
            shutil.rmtree(left_over)  # of a build that was killed: its lock is ours now
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
        try:
            build(partial)
            write_manifest(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder
