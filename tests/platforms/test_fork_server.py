"""Forks of the server are like new Pythons: in what they are given, and in how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from verl_ext.platforms import fork_server

ENVIRONMENT = {**os.environ, "TOLD_AT_START": "1"}
STARTS = """
import os, sys
from verl_ext.platforms import fork_server
print(fork_server.start(["json"], ["numpy"], ["csv"], os.environ), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def python():
    """The program to use for ``python``, of a server that lives as long as the module's tests."""
    driver = subprocess.Popen(
        [sys.executable, "-c", STARTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    path = Path(driver.stdout.readline().strip())
    yield path
    driver.communicate()
    wait_until(lambda: not path.parent.exists())


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def run(python, *arguments, **options):
    return subprocess.run(
        [python, *arguments], capture_output=True, text=True, timeout=60, **options
    )


def block_sigint():
    """As Ray does for its workers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def alive(pid):
    return os.path.exists(f"/proc/{pid}")


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


def started(python, *before):
    code = "import os, signal, time; print(os.getpid(), flush=True); time.sleep(60)"
    process = subprocess.Popen([python, "-c", "\n".join([*before, code])], stdout=subprocess.PIPE)
    return process, int(process.stdout.readline())


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


def test_what_modules_set_on_import_is_set_in_forks(tmp_path, monkeypatch):
    (tmp_path / "sets.py").write_text(
        "import os\nos.environ['SET_ON_IMPORT'] = os.environ['TOLD_AT_START'] + '!'\n"
        "os.environ.setdefault('OTHERS', 'module')"
    )
    starts = STARTS.replace('["json"]', '["sets"]')
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    code = "import os; print(os.environ['SET_ON_IMPORT'], os.environ['OTHERS'])"
    with subprocess.Popen(
        [sys.executable, "-c", starts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as driver:
        program = driver.stdout.readline().strip()
        assert run(program, "-c", code).stdout == "1! module\n"
        assert run(program, "-c", code, env={**os.environ, "OTHERS": "x"}).stdout == "1! x\n"


def test_forks_die_with_who_started_the_server():
    driver = subprocess.Popen([sys.executable, "-c", STARTS], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
    program = Path(driver.stdout.readline().strip())
    process, pid = started(program)
    driver.kill()
    driver.communicate()
    assert process.wait(20) != 0
    wait_until(lambda: not alive(pid) and not program.parent.exists())


@pytest.mark.parametrize("arguments", [("-c", "print('new')"), ("-I", "-c", "print('new')")])
def test_where_no_fork_can_be_had_it_is_a_new_python(tmp_path, python, arguments):
    gone = tmp_path / "python"
    gone.write_text(python.read_text().replace(str(python.parent / "socket"), "/nowhere"))
    gone.chmod(0o700)
    result = run(gone, *arguments)
    assert result.stdout == "new\n"
    assert ("no fork server" in result.stderr) == (arguments[0] == "-c")


def test_modules_that_are_not_there_are_passed_over():
    starts = STARTS.replace('["json"]', '["not_there"]')
    with subprocess.Popen([sys.executable, "-c", starts], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as driver:  # fmt: skip
        program = Path(driver.stdout.readline().strip())
        assert run(program, "-c", "print(1)").stdout == "1\n"
        assert "not_there" in (program.parent / "log").read_text()


def test_a_server_without_more_to_import_answers_at_once():
    starts = STARTS.replace('["csv"]', "[]")
    with subprocess.Popen([sys.executable, "-c", starts], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as driver:  # fmt: skip
        assert run(driver.stdout.readline().strip(), "-c", "print(1)").stdout == "1\n"


def test_the_title_of_a_fork_can_be_set(python):
    code = """
import setproctitle; setproctitle.setproctitle("my title")
print(open("/proc/self/cmdline").read().rstrip(chr(0)))
"""
    assert run(python, "-c", code).stdout == "my title\n"


def test_who_waits_for_a_server_that_ends_says_so(tmp_path):
    (tmp_path / "slow.py").write_text("import time; time.sleep(2)")
    starts = STARTS.replace('["numpy"]', '["slow"]')
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    driver = subprocess.Popen(
        [sys.executable, "-c", starts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    program = driver.stdout.readline().strip()
    waiting = subprocess.Popen(
        [program, "-c", "print(1)"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(0.5)
    driver.kill()
    driver.communicate()
    _, said = waiting.communicate(timeout=20)
    assert waiting.returncode == 1, said
    assert "ended before it could start a process" in said


def test_forks_that_draw_the_same_ids_of_ray_are_refused(tmp_path):
    (tmp_path / "draws.py").write_text("import ray; ray._raylet.UniqueID.from_random()")
    starts = STARTS.replace('["numpy"]', '["draws"]')
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", starts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as driver:
        program = driver.stdout.readline().strip()
        assert run(program, "-c", "print(1)").stdout == "1\n"
        second = run(program, "-c", "print(2)")
        assert (second.returncode, second.stdout) == (1, "")
        assert "draw the same IDs of Ray: add algorithm.verl_ext.preload=false" in second.stderr


def test_the_server_is_open_to_its_user_alone(python):
    assert python.parent.stat().st_mode & 0o077 == 0
