"""Forks of the server are like new Pythons: in what they are given, and in how they end."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from platforms.forks import alive, run, started, wait_until, with_server

from verl_ext.platforms import fork_server


@pytest.fixture(scope="module")
def python():
    """The program to use for ``python``, of a server that lives as long as the module's tests."""
    driver = with_server()
    path = Path(driver.stdout.readline().strip())
    yield path
    driver.communicate()
    wait_until(lambda: not path.parent.exists())


def block_sigint():
    """As Ray does for its workers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def test_a_fork_has_what_a_new_python_has_and_the_modules(python, tmp_path):
    code = """
import json, os, signal, sys
blocked = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
print(json.dumps([blocked, sys.argv, os.getcwd(), dict(os.environ), sys.path[0], os.getpgrp(),
                  __name__, "numpy" in sys.modules, os.umask(0), sys.stdin.read()]))
"""
    found = {}
    for program in (python, sys.executable):
        environment = {**os.environ, "MINE": "2"}
        options = {"cwd": tmp_path, "env": environment, "preexec_fn": block_sigint}
        result = run(program, "-c", code, "a", "-b", input="in", **options)
        assert result.returncode == 0, result.stderr
        found[program] = json.loads(result.stdout)
    forked, new = found[python], found[sys.executable]
    assert forked.pop(7)
    assert not new.pop(7)
    assert forked[3].pop(fork_server.FIRST_VARIABLE)
    for values in (forked, new):
        values[3].pop("PWD", None)  # the shell corrects it
    assert forked == new
    assert forked[0] == [signal.SIGINT]


def test_a_script_finds_its_neighbours_and_its_name(python, tmp_path):
    (tmp_path / "neighbour.py").write_text("WHO = 'neighbour'")
    script = tmp_path / "script.py"
    script.write_text("import sys, neighbour; print(neighbour.WHO, __file__, sys.argv)")
    result = run(python, "-u", script, "x")
    assert result.stdout == f"neighbour {script} ['{script}', 'x']\n", result.stderr


def test_open_files_keep_their_numbers(python):
    reading, writing = os.pipe()
    os.dup2(writing, 70)
    code = "import os; os.write(70, b'here'); print(sorted(map(int, os.listdir('/proc/self/fd'))))"
    result = run(python, "-c", code, pass_fds=[70])
    os.close(writing)
    os.close(70)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"here", result.stderr  # and its end is closed everywhere
    assert {0, 1, 2, 70} <= set(json.loads(result.stdout))


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(3)", 3),
        ("1 / 0", 1),
        ("import os; os._exit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM),
    ],
)
def test_it_ends_as_the_fork_ends(python, code, status):
    result = run(python, "-c", code)
    assert result.returncode == status
    assert ("ZeroDivisionError" in result.stderr) == ("/" in code)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_stands_for_a_fork_takes_it_along(python, number):
    process, pid = started(python)
    process.send_signal(number)
    assert process.wait(20) == -number
    wait_until(lambda: not alive(pid))


def test_a_killed_fork_ends_who_stands_for_it(python):
    process, pid = started(python)
    os.kill(pid, signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL


def test_multiprocessing_spawns_forks(python, tmp_path):
    (tmp_path / "work.py").write_text("""
import multiprocessing, os, sys
def work(queue): queue.put(("numpy" in sys.modules, os.getpid()))
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(*queue.get(timeout=30), process.pid)
    process.join()
    print(process.exitcode)
""")
    result = run(python, tmp_path / "work.py")
    first, status = result.stdout.splitlines()
    imported, pid, stands_for_it = first.split()
    assert (imported, status) == ("True", "0")
    assert pid != stands_for_it


def test_forks_draw_other_random_numbers(python):
    code = "import random, numpy, uuid; print(random.random(), numpy.random.rand(), uuid.uuid4())"
    drawn = [run(python, "-c", code).stdout.split() for _ in range(2)]
    assert all(a != b for a, b in zip(*drawn, strict=True))


@pytest.mark.parametrize("arguments", [("-c", "print('new')"), ("-I", "-c", "print('new')")])
def test_where_no_fork_can_be_had_it_is_a_new_python(tmp_path, python, arguments):
    gone = tmp_path / "python"
    gone.write_text(python.read_text().replace(str(python.parent / "socket"), "/nowhere"))
    gone.chmod(0o700)
    result = run(gone, *arguments)
    assert result.stdout == "new\n"
    assert ("no fork server" in result.stderr) == (arguments[0] == "-c")


def test_the_title_of_a_fork_can_be_set(python):
    code = """
import setproctitle; setproctitle.setproctitle("my title")
print(open("/proc/self/cmdline").read().rstrip(chr(0)))
"""
    assert run(python, "-c", code).stdout == "my title\n"


def test_the_server_is_open_to_its_user_alone(python):
    assert python.parent.stat().st_mode & 0o077 == 0
