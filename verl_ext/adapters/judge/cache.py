"""Answers that are not asked for again: a SQLite file that processes share."""

import hashlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from verl_ext.adapters.judge.settings import JudgeError

FILE = "judge.sqlite"
FORMAT = 1  # of the key: one more where an answer would be read in another way
PATIENCE_S = 30.0  # for another process's write


class AnswerCache:
    """What a judge answered, by everything that determines it.

    The file is opened at the first use, in the process that uses it. It holds hashes of requests
    and answers, neither prompts nor keys.

    Args:
        folder: on a local disk: SQLite cannot share a file over a network.
    """

    def __init__(self, folder: str) -> None:
        self._path = Path(folder).expanduser() / FILE
        self._opened: tuple[int, sqlite3.Connection] | None = None

    def find(self, key: str) -> str | None:
        """The text answered; None where there is none yet.

        Args:
            key: of :func:`key`.

        Raises:
            JudgeError: the file cannot be read.
        """
        found = self._execute("SELECT answer FROM answers WHERE key = ?", (key,))
        return str(found[0][0]) if found else None

    def keep(self, key: str, answer: str) -> None:
        """Keeps an answer; the first of a key stays.

        Args:
            key: of :func:`key`.
            answer: the text.

        Raises:
            JudgeError: the file cannot be written.
        """
        self._execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, answer))

    def _execute(self, statement: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._connection().execute(statement, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise JudgeError(f"the judge's cache {self._path} does not work: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        if self._opened is None or self._opened[0] != os.getpid():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            made = sqlite3.connect(
                self._path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False
            )
            made.execute("PRAGMA journal_mode=WAL")
            made.execute("PRAGMA synchronous=NORMAL")  # a crash may lose answers, never the file
            made.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT)")
            self._opened = os.getpid(), made
        return self._opened[1]


def key(base_url: str, body: dict[str, Any]) -> str:
    """A hash of everything that determines an answer.

    Args:
        base_url: of the endpoint.
        body: of the request: model, messages, sampling, schema.
    """
    whole = json.dumps([FORMAT, base_url.rstrip("/"), body], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()
