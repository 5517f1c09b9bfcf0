"""Fork servers that tests start: what they import, how they end, and what they refuse."""

import os
import subprocess
import time
from pathlib import Path

from platforms.forks import STARTS, alive, run, started, wait_until, with_server


def test_what_modules_set_on_import_is_set_in_forks(tmp_path, monkeypatch):
    (tmp_path / "sets.py").write_text(
        "import os\nos.environ['SET_ON_IMPORT'] = os.environ['TOLD_AT_START'] + '!'\n"
        "os.environ.setdefault('OTHERS', 'module')"
    )
    starts = STARTS.replace('["json"]', '["sets"]')
    code = "import os; print(os.environ['SET_ON_IMPORT'], os.environ['OTHERS'])"
    with with_server(starts, PYTHONPATH=str(tmp_path)) as driver:
        program = driver.stdout.readline().strip()
        assert run(program, "-c", code).stdout == "1! module\n"
        assert run(program, "-c", code, env={**os.environ, "OTHERS": "x"}).stdout == "1! x\n"


def test_forks_die_with_who_started_the_server():
    driver = with_server()
    program = Path(driver.stdout.readline().strip())
    process, pid = started(program)
    driver.kill()
    driver.communicate()
    assert process.wait(20) != 0
    wait_until(lambda: not alive(pid) and not program.parent.exists())


def test_modules_that_are_not_there_are_passed_over():
    starts = STARTS.replace('["json"]', '["not_there"]')
    with with_server(starts) as driver:
        program = Path(driver.stdout.readline().strip())
        assert run(program, "-c", "print(1)").stdout == "1\n"
        assert "not_there" in (program.parent / "log").read_text()


def test_a_server_without_more_to_import_answers_at_once():
    starts = STARTS.replace('["csv"]', "[]")
    with with_server(starts) as driver:
        assert run(driver.stdout.readline().strip(), "-c", "print(1)").stdout == "1\n"


def test_who_waits_for_a_server_that_ends_says_so(tmp_path):
    (tmp_path / "slow.py").write_text("import time; time.sleep(2)")
    starts = STARTS.replace('["numpy"]', '["slow"]')
    driver = with_server(starts, PYTHONPATH=str(tmp_path))
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
    with with_server(starts, PYTHONPATH=str(tmp_path)) as driver:
        program = driver.stdout.readline().strip()
        assert run(program, "-c", "print(1)").stdout == "1\n"
        second = run(program, "-c", "print(2)")
        assert (second.returncode, second.stdout) == (1, "")
        assert "draw the same IDs of Ray: add algorithm.verl_ext.preload=false" in second.stderr
