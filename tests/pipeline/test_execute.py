"""Execution: honest about failures, done once, and gone without a trace when interrupted."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import CORES

from book.pipeline import execute, family
from book.pipeline.layout import PipelineError


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(condition, seconds: float = 30):
    """What `condition` gives, as soon as it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def test_a_run_holds_what_its_chapter_printed(executed):
    (outputs,) = [outputs for outputs in executed.outputs("01_first") if "area" in str(outputs)]
    assert "area: 9" in outputs[0]["text"]


def test_a_run_says_where_it_comes_from(executed):
    manifest = executed.find("01_first").manifest
    assert manifest["commit"] == executed.git("rev-parse", "HEAD")
    assert manifest["dirty"] is False
    assert set(manifest["modules"]) == {"gausstools/__init__.py", "gausstools/shapes.py"}
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["processor"]


def test_two_chapters_share_the_cores(executed):
    share = CORES // 2
    for slug in ("01_first", "02_second"):
        assert f"threads: {share}" in str(executed.outputs(slug))
    assert f"threads: {share} {share}" in str(executed.outputs("01_first"))


def test_the_shared_execution_ran_both_and_left_nothing_else(executed, first_execution):
    outcome, _ = first_execution
    assert sorted(chapter.slug for chapter in outcome.executed) == ["01_first", "02_second"]
    assert executed.left_over() == []
    assert executed.git("status", "--porcelain") == ""


def test_it_says_what_starts_and_what_ends_in_how_many_seconds(first_execution):
    _, shown = first_execution
    lines = [line.strip() for line in shown.splitlines()]
    for slug in ("01_first", "02_second"):
        start = lines.index(f"notebooks/{slug}.py: running (never executed)")
        assert any(re.fullmatch(rf"notebooks/{slug}\.py: done in \d+\.\d s", line) for line in lines[start:])


def test_nothing_is_executed_twice(executed):
    before = executed.runs()
    done = executed.command("execute")
    assert done.returncode == 0, done.stderr
    assert "0 chapters executed, 2 up to date" in done.stdout
    assert executed.runs() == before


@pytest.fixture(scope="module")
def failing(executed_for_module):
    """The first chapter is to be executed again and succeeds, the second claims what is false; executed twice."""
    toy = executed_for_module
    (toy.book.executed / "01_first.0123456789ab.ipynb").symlink_to("nowhere")  # which is no run
    toy.edit("notebooks/01_first.py", "SIZE = 3", "SIZE = 4")
    toy.edit("notebooks/02_second.py", "print(words", 'assert TIMES == 3, "planted"\nprint(words')
    toy.pair()
    return toy, toy.command("execute"), toy.command("execute")


def test_a_failure_is_told_with_file_cell_and_traceback(failing):
    _, done, _ = failing
    message = plain(done.stderr)
    assert done.returncode == 1
    assert 'notebooks/02_second.py, cell "import os" failed:' in message
    assert re.search(r'assert TIMES == 3, "planted"', message)
    assert "AssertionError: planted" in message
    assert "1 of 2 chapters failed" in message
    assert "notebooks/02_second.py: FAILED" in done.stdout


def test_the_success_beside_a_failure_is_kept(failing):
    toy, done, _ = failing
    assert re.search(r"notebooks/01_first\.py: done in \d+\.\d s", done.stdout)
    assert "area: 16" in str(toy.outputs("01_first"))
    assert toy.reason("02_second") == "its code changed"
    assert toy.left_over() == []


def test_running_again_repeats_the_failed_chapter_only(failing):
    _, _, again = failing
    assert again.returncode == 1
    assert "notebooks/01_first.py: up to date" in again.stdout
    assert re.search(r"02_second\.py: running \(its code changed; took \d+ s last time\)", again.stdout)


def test_a_cell_that_ends_without_a_traceback_is_named(toy):
    """The kernel of the first chapter dies, the second hangs."""
    toy.edit("notebooks/01_first.py", 'print("threads:"', 'os._exit(1)\nprint("threads:"')
    toy.edit("notebooks/02_second.py", "print(words", "while True: pass\nprint(words")
    toy.pair()
    done = toy.command("execute", "--timeout", "1")
    assert done.returncode == 1
    for slug, error in (("01_first", "DeadKernelError"), ("02_second", "CellTimeoutError")):
        (told,) = [part for part in done.stderr.split("notebooks/") if part.startswith(slug)]
        assert told.startswith(f'{slug}.py, cell "import os" failed:')
        assert error in told


def test_damaged_runs_are_named_and_executed_again(executed, monkeypatch, capfd):
    """And a chapter that takes long is told."""
    monkeypatch.setattr(execute, "SLOW_SECONDS", 0.0)
    first, second = (executed.find(slug).path for slug in ("01_first", "02_second"))
    first.write_bytes(first.read_bytes()[:-100])
    second.write_bytes(second.read_bytes().replace(b"hellohello", b"jellohello"))
    outcome = execute.execute(executed.book, [])
    assert len(outcome.executed) == 2
    shown = capfd.readouterr().out
    for path in (first, second):
        assert f"warning: .cache/executed/{path.name}: this cached run is damaged" in shown
    assert re.search(r"notebooks/01_first\.py: running \(its cached run is damaged\)", shown)
    assert re.search(r"warning: notebooks/01_first.py took \d+ s; a chapter should take at most", shown)
    assert "hellohello 7" in str(executed.outputs("02_second"))
    assert executed.find("01_first")


@pytest.fixture
def sleeping(executed):
    """`execute`, at a moment when the kernel of the second chapter and its child process are in the midst of a cell."""
    code = 'import subprocess\nnap = subprocess.Popen(["sleep", "60"])\n'
    code += 'Path("pids").write_text(f"{os.getpid()} {nap.pid}.")\nnap.wait()\n'
    executed.edit("notebooks/02_second.py", "print(words", f"{code}print(words")
    executed.pair()
    pipeline = subprocess.Popen(
        executed.arguments("execute"), cwd=executed.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background may ignore it
    )  # fmt: skip
    pids = executed.root / "pids"
    eventually(lambda: pids.is_file() and pids.read_text().endswith("."))
    worker = psutil.Process(pipeline.pid).children()[0].pid
    yield executed, pipeline, [worker, *map(int, pids.read_text()[:-1].split())]
    pipeline.kill()
    pipeline.wait()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_leaves_nothing_behind(sleeping, name):
    toy, pipeline, pids = sleeping
    before = toy.runs()
    assert len(pids) == 3
    assert all(map(alive, pids))
    assert toy.left_over()  # so that the same question below means something

    pipeline.send_signal(getattr(signal, name))
    out, err = pipeline.communicate(timeout=20)
    assert pipeline.returncode == 130
    assert "Interrupted" in err
    assert "Traceback" not in out + err
    assert eventually(lambda: not any(map(alive, pids)), 5)
    assert toy.left_over() == []
    assert toy.runs() == before


def test_a_killed_pipeline_takes_its_workers_along(sleeping):
    toy, pipeline, pids = sleeping
    second = toy.command("execute")
    assert second.returncode == 1
    assert "Another command is writing" in second.stderr
    assert all(map(alive, pids))
    assert toy.command("pair", "--check").returncode == 0, "what only reads may run beside it"

    pipeline.kill()
    pipeline.wait()
    assert eventually(lambda: not any(map(alive, pids)), 10)
    assert toy.command("execute", "01").returncode == 0
    assert toy.left_over() == []


def test_a_process_ends_with_the_one_that_it_follows():
    """Also what it started, and also where the other one is gone before it begins."""
    code = "import subprocess, sys; from book.pipeline.family import follow; nap = subprocess.Popen(['sleep', '60'])\n"
    code += "print(nap.pid, flush=True); follow(int(sys.argv[1])); nap.wait()"
    leader = subprocess.Popen(["sleep", "60"])
    for gone in (False, True):
        follower = subprocess.Popen([sys.executable, "-c", code, str(leader.pid)], stdout=subprocess.PIPE, text=True)
        nap = int(follower.stdout.readline())
        if not gone:
            leader.kill()
            leader.wait()
        assert follower.wait(10) == 1
        assert eventually(lambda nap=nap: not alive(nap), 5)


@pytest.mark.skipif(os.name != "posix", reason="limits are Unix's")
@pytest.mark.parametrize("size", [0, 2000])
def test_a_full_disk_is_a_clear_error(executed, size):
    import resource

    def limited(sender):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        sender.send(executed.command("execute"))

    executed.edit("notebooks/01_first.py", "SIZE = 3", "SIZE = 4")
    executed.pair()
    before = executed.runs()
    processes = multiprocessing.get_context("fork")
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=limited, args=(sender,))
    process.start()
    done = receiver.recv()
    process.join()
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert executed.runs() == before


def test_what_a_killed_pipeline_left_is_swept(executed):
    executed.write(".cache/executing/999999999/01_first/input.ipynb", "{")
    executed.command("execute")
    assert executed.left_over() == []


def test_no_process_that_a_worker_is_about_to_start_escapes(monkeypatch):
    """A worker that ever starts new processes, also between being asked for them and being ended."""
    children = psutil.Process.children

    def slowly(process):
        found = children(process)
        time.sleep(0.1 if process.pid == worker.pid else 0)
        return found

    code = "import subprocess\nwhile True: subprocess.Popen(['sleep', '61.803'])"
    worker = subprocess.Popen([sys.executable, "-c", code])
    eventually(lambda: psutil.Process(worker.pid).children())
    monkeypatch.setattr(psutil.Process, "children", slowly)
    family.end(worker)

    def survivors():
        return [p for p in psutil.process_iter(["cmdline"]) if "61.803" in (p.info["cmdline"] or []) and alive(p.pid)]

    left = survivors()
    for process in left:
        process.kill()
    assert left == []


def test_chapters_are_chosen_by_number_slug_and_path(toy):
    chosen = [toy.book.select([name])[0].slug for name in ("02", "02_second", "notebooks/02_second.ipynb")]
    assert chosen == ["02_second"] * 3
    with pytest.raises(PipelineError, match=r"No chapter is called 07.*01_first, 02_second"):
        toy.book.select(["07"])


@pytest.mark.parametrize("name", ["_config.yml", "book/_toc.yml"])
def test_elsewhere_than_in_the_root_is_a_clear_error(toy, name):
    (toy.root / name).unlink()
    done = toy.command("execute")
    assert done.returncode == 1
    assert f"{toy.root} has no {name}, so it is not the root of the book" in done.stderr
    assert "Traceback" not in done.stderr
