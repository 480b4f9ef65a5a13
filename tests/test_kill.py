"""main.py killed at any moment, and gone on with: the right result, and every job started exactly once."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import TESTS, wait_until
from rescale_simulator import Record, Simulator
from two_jobs import INPUT, LINKS, REQUESTS, Watch, assert_right, command

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL and SIGINT")

# Appended to the library's copy: its time runs 200 times as fast, and it kills its own process at the given one of the
# moments at which a file below the working folder is about to be opened for writing, renamed, removed or made; the same
# thing done several times running counts as once, for that differs between Pythons.
ADDITION = '''

import types as _types

_real = time
time = _types.SimpleNamespace(
    sleep=lambda seconds: _real.sleep(seconds / 200), monotonic=lambda: 200 * _real.monotonic(), time=_real.time,
)


def _watch_files():
    import signal

    folder, kill_at = os.getcwd() + os.sep, int(os.environ.get("KILL_AT", "0"))
    wanted = os.environ.get("KILL_EVENT", "")
    seen = [""]
    out = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def at_event(event, arguments):
        if event == "open":
            if isinstance(arguments[0], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "os.rmdir"):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))
        text = f"{event} {path[len(folder):]}\\n"
        if path.startswith(folder) and wanted in event and text != seen[-1]:
            seen.append(text)
            os.write(out, text.encode())
            if 0 < kill_at < len(seen):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(at_event)


if "EVENTS" in os.environ:
    _watch_files()
'''

# What a chain does to files, in order; each may be the last thing it does.
FILE_EVENTS = [
    "open .rescale.tar.gz.part",
    "os.rename .rescale.tar.gz.part",
    "open .first.job.part",
    "os.rename .first.job.part",
    "open first.job",
    "open .first.desktop.part",
    "os.rename .first.desktop.part",
    "open .second.job.part",
    "os.rename .second.job.part",
    "open second.job",
    "open .second.desktop.part",
    "os.rename .second.desktop.part",
    "os.mkdir second",
    "open second/.ID.part",
    "os.rename second/.ID.part",
]
# The project is none, and what was done is shown at the end.
MAIN_REQUESTS = [name for name in REQUESTS if "projects" not in name] + [
    f"{link}: GET jobs/ID/{what}/ at the end" for link, _ in LINKS for what in ("statuses", "files")
]
USER = getpass.getuser()


def put_in(text: str, pattern: str, value: str) -> str:
    changed, count = re.subn(pattern, lambda _: value, text, flags=re.MULTILINE | re.DOTALL)
    assert count == 1
    return changed


def copy_scripts(folder: Path, addition: str = ADDITION) -> None:
    """main.py with two tiny jobs, and the library, as in a fresh clone."""
    batches = [(link, command(word)) for link, word in LINKS]
    text = (TESTS.parent / "main.py").read_text(encoding="utf-8")
    text = put_in(text, r"^batches = \[.*?^\]", f"batches = {batches!r}")
    text = put_in(text, r"^input_path = [^\n]*", 'input_path = Path(__file__).parent / "inputs"')
    (folder / "main.py").write_text(text, encoding="utf-8")
    library = (TESTS.parent / "rescale_rest_api.py").read_text(encoding="utf-8")
    # Before the commands, which are the last thing in it.
    marker = '\n\nif __name__ == "__main__":'
    assert library.count(marker) == 1
    (folder / "rescale_rest_api.py").write_text(library.replace(marker, addition + marker), encoding="utf-8")
    (folder / "inputs").mkdir()
    (folder / "inputs" / "steps.txt").write_text(INPUT, encoding="utf-8")


@pytest.fixture
def chain(sim, clean_surroundings, monkeypatch):
    """The folder of a main.py with two tiny jobs, and the environment that points it at the simulator."""
    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    copy_scripts(clean_surroundings)
    return clean_surroundings


def start(*arguments: str, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "main.py", *arguments], env={**os.environ, **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
    with start(*arguments, **variables) as process:
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, out, err


def result() -> Path:
    [path] = Path().glob("*@second@*/rescale.tar.gz")
    return path


def go_on(sim: Simulator) -> None:
    """Do what a user does after a crash, until all is done."""
    status, out, err = run("--resume")
    if status == 2 and "no unfinished chain" in err and not list(Path().glob("*.job")):
        for part in Path().glob(".*.job.part"):
            part.unlink()  # of a chain that never was; no other one has that name
        status, out, err = run()  # killed before anything was started
    if status == 2 and "no unfinished chain" in err and list(Path().glob("*@second@*/rescale.tar.gz")):
        status, err = 0, ""  # killed when all was done
    assert (status, err) == (0, "")
    assert_right(sim, result())
    assert sim.token not in out


# The points at which it is killed


def test_the_requests_at_which_it_is_killed_are_all_there_are(sim, chain):
    watch = Watch(sim)

    status, _, err = run()

    assert (status, err) == (0, "")
    assert_right(sim, result())
    assert list(dict.fromkeys(watch.names)) == MAIN_REQUESTS


def without_names(events: list[str]) -> list[str]:
    """The events without what differs from chain to chain: user, time and ids."""
    return [
        re.sub(r"/\.\w{6}\.part", "/.ID.part", re.sub(rf"{re.escape(USER)}@(\w+)@\d+-\d+", r"\1", event))
        for event in events
    ]


def test_the_file_events_at_which_it_is_killed_are_all_there_are(sim, chain, tmp_path):
    Watch(sim)

    status, _, err = run(EVENTS=str(tmp_path / "events"))

    assert (status, err) == (0, "")
    assert without_names((tmp_path / "events").read_text(encoding="utf-8").splitlines()) == FILE_EVENTS


@pytest.mark.parametrize(("when", "at"), [
    *(("before", at) for at in MAIN_REQUESTS), *(("after", at) for at in MAIN_REQUESTS if "POST" in at),
])
def test_a_chain_killed_at_a_request_is_gone_on_with(sim, chain, when, at):
    """Before the request is acted on, or after, but before the answer."""
    watch = Watch(sim)
    process = start()

    def kill(record: Record, now: str) -> None:
        if now == when and watch.names[-1] == at and process.poll() is None:
            process.kill()
            process.wait()
            raise ConnectionAbortedError  # it has not heard the answer, nor, before, been heard
        watch.on_request(record, now)

    sim.on_request = kill
    with process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL

    sim.on_request = watch.on_request
    go_on(sim)


@pytest.mark.parametrize("number", range(1, len(FILE_EVENTS) + 1), ids=lambda number: f"{number}: "
                         f"{FILE_EVENTS[number - 1]}")
def test_a_chain_killed_when_it_writes_a_file_is_gone_on_with(sim, chain, tmp_path, number):
    Watch(sim)

    status, _, _ = run(EVENTS=str(tmp_path / "events"), KILL_AT=str(number))
    assert status == -signal.SIGKILL

    go_on(sim)


def test_a_chain_killed_again_and_again_is_gone_on_with(sim, chain, tmp_path):
    """The resumed runs are killed too, every second time one file event later."""
    Watch(sim)
    status, _, _ = run(EVENTS=str(tmp_path / "events"), KILL_AT="7")
    runs = 1
    while status == -signal.SIGKILL and runs < 40:
        status, _, err = run("--resume", EVENTS=str(tmp_path / "events"), KILL_AT=str(3 + runs // 2))
        runs += 1

    assert (status, err) == (0, "")
    assert runs > 5
    assert_right(sim, result())


BIG = "head -c 3000000 /dev/urandom > noise\n"


def large_result(text: str) -> str:
    """main.py whose last job leaves 3 MB that do not shrink."""
    return text.replace("echo two", f"{BIG}echo two".replace("\n", "\\n"))


def test_a_chain_killed_while_it_downloads_goes_on_where_it_stopped(sim, chain):
    Watch(sim)
    script = chain / "main.py"
    script.write_text(large_result(script.read_text(encoding="utf-8")), encoding="utf-8")
    sim.rate = 1_500_000
    with start() as process:
        wait_until(lambda: any(path.stat().st_size > 500_000 for path in Path().rglob("*@second@*/.*.part")), 30)
        process.kill()
        process.communicate()
    assert list(Path().rglob("*@second@*/rescale.tar.gz")) == []

    sim.rate = None
    go_on(sim)

    first = int(re.fullmatch(r"bytes=(\d+)-\d*", sim.requests[-6].headers["Range"])[1])
    assert first > 500_000


@pytest.mark.parametrize("event", ["os.remove", "open", "os.rename"])
@pytest.mark.parametrize("number", [1, 4, 9])
def test_a_chain_killed_while_it_downloads_in_ranges_leaves_nothing_behind_in_the_end(
    sim, chain, tmp_path, event, number
):
    Watch(sim)
    script, library = chain / "main.py", chain / "rescale_rest_api.py"
    script.write_text(large_result(script.read_text(encoding="utf-8")), encoding="utf-8")
    text = library.read_text(encoding="utf-8")
    text = put_in(text, r"^SINGLE = [^\n]*", "SINGLE = 100_000")
    library.write_text(put_in(text, r"^RANGE = [^\n]*", "RANGE = 200_000"), encoding="utf-8")
    before = {"open": 8, "os.rename": 5, "os.remove": 0}[event]  # those that come before the download
    if event == "os.rename":
        number = 1

    status, _, _ = run(EVENTS=str(tmp_path / "events"), KILL_EVENT=event, KILL_AT=str(before + number))
    assert status == -signal.SIGKILL
    assert list(Path().rglob("*@second@*/rescale.tar.gz")) == []

    go_on(sim)


# What --resume goes on with


def test_without_an_unfinished_chain_there_is_nothing_to_resume(sim, chain):
    status, _, err = run("--resume")

    assert status == 2
    assert "no unfinished chain of first, second" in err
    assert not sim.requests


def test_a_finished_chain_is_not_resumed(sim, chain):
    Watch(sim)
    assert run()[0] == 0
    requests = len(sim.requests)

    status, _, err = run("--resume")

    assert status == 2
    assert "no unfinished chain" in err
    assert len(sim.requests) == requests


def test_finished_links_are_not_repeated(sim, chain):
    watch = Watch(sim)
    sim.fail = "second"
    assert run()[0] == 1
    [second] = Path().glob("*@second@*.job")
    second.unlink()
    sim.fail, before = None, len(watch.names)

    assert run("--resume")[0] == 0

    asked = watch.names[before:]
    assert not any(name.startswith("first: POST") for name in asked)
    assert sorted(sim.jobs[job_id].name.split("@")[1] for job_id in sim.starts) == ["first", "second", "second"]


def test_what_a_failed_last_job_left_can_be_fetched_before_the_job_is_repeated(sim, chain):
    """Fetching it must not make the chain look finished."""
    Watch(sim)
    sim.fail = "second"
    status, _, err = run()
    assert status == 1
    for line in re.findall(r"python rescale_rest_api\.py download \w+", err):
        subprocess.run(line, shell=True, check=True, capture_output=True)
    assert result().exists()
    [second] = Path().glob("*@second@*.job")
    second.unlink()
    sim.fail = None

    status, out, err = run("--resume")

    assert (status, err) == (0, "")
    assert "Total 1 files will be downloaded" in out
    assert run("--resume")[0] == 2, "the chain is finished, even where both archives are the same byte for byte"
    assert sorted(sim.jobs[job_id].name.split("@")[1] for job_id in sim.starts) == ["first", "second", "second"]


def test_a_finished_chain_is_not_run_again_though_the_job_file_of_its_last_link_is_deleted(sim, chain):
    """As by the one who meant to repeat a failed job of another chain: `rm *@second@*.job`."""
    Watch(sim)
    assert run()[0] == 0
    [second] = Path().glob("*@second@*.job")
    second.unlink()
    jobs = len(sim.jobs)

    status, _, err = run("--resume")

    assert (status, len(sim.jobs)) == (2, jobs)
    assert "no unfinished chain" in err


def test_a_chain_whose_download_broke_off_behind_its_archive_is_gone_on_with(sim, chain):
    Watch(sim)
    assert run()[0] == 0
    (result().parent / ".abcXYZ.part").touch()

    status, out, err = run("--resume")

    assert (status, err) == (0, "")
    assert "\nGoing on with the chain of 2" in out


def test_the_newest_unfinished_chain_is_gone_on_with(sim, chain):
    Watch(sim)
    sim.fail = "second"
    for started_at in ("20260101-000000", "20260102-000000"):
        script = (chain / "main.py").read_text(encoding="utf-8")
        (chain / "main.py").write_text(
            re.sub(r'time\.strftime\("%Y%m%d-%H%M%S"\)|"2026\d{4}-000000"', f'"{started_at}"', script), encoding="utf-8"
        )
        assert run()[0] == 1
    for path in Path().glob("*@second@*.job"):
        path.unlink()
    sim.fail = None

    assert run("--resume")[0] == 0

    assert result().parent.name.endswith("@20260102-000000")


def test_a_chain_that_runs_is_not_gone_on_with_by_another_process(sim, chain):
    watch = Watch(sim)
    go = threading.Event()
    sim.on_request = lambda record, when: go.is_set() and watch.on_request(record, when)
    with start() as process:
        wait_until(lambda: any("/tail/" in record.path for record in sim.requests), 20)
        status, _, err = run("--resume")
        assert status == 1
        assert "another process" in err
        go.set()
        assert process.communicate(timeout=60)[1] == ""

    assert process.returncode == 0
    assert_right(sim, result())


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff\xfe\xfd\xfc\n", b"../users/me\n", b"<html>\n"])
def test_a_job_file_that_the_disk_has_spoilt_starts_nothing(sim, chain, content):
    Watch(sim)
    Path(f"{USER}@first@20260101-000000.job").write_bytes(content)

    status, _, err = run("--resume")

    assert status == 1
    assert "Traceback" not in err
    assert not sim.starts
    assert not any(record.method == "POST" for record in sim.requests)


def test_a_chain_whose_job_ended_while_the_machine_was_off_is_gone_on_with(sim, chain):
    watch = Watch(sim)
    process = start()

    def kill(record: Record, when: str) -> None:
        watch.on_request(record, when)
        if watch.names[-1].startswith("second: GET jobs/ID/runs/1/tail/"):
            process.kill()

    sim.on_request = kill
    with process:
        process.communicate(timeout=60)
    sim.on_request = watch.on_request
    wait_until(lambda: len(sim.jobs) == 2 and all(job.ended for job in sim.jobs.values()))

    go_on(sim)


def test_a_chain_whose_key_was_changed_is_gone_on_with_under_the_new_one(sim, chain, monkeypatch):
    watch = Watch(sim)

    def change(record: Record, when: str) -> None:
        watch.on_request(record, when)
        if watch.names[-1].startswith("second: GET jobs/ID/runs/1/tail/"):
            sim.token = "0123456789abcdef0123456789abcdef01234567"

    sim.on_request = change
    status, _, err = run()
    assert status == 1
    assert "401" in err
    assert sim.token not in err
    sim.on_request = watch.on_request

    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    go_on(sim)


# Ctrl-C


def run_until_it_waits(sim: Simulator, *command_line: str) -> subprocess.Popen:
    """main.py whose first job does not end by itself."""
    sim.on_request = None
    process = subprocess.Popen(
        [sys.executable, *(command_line or ["main.py"])], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: any("/tail/" in record.path for record in sim.requests), 20)
    except AssertionError:
        process.kill()
        raise
    return process


def interrupt(process: subprocess.Popen) -> str:
    """Ctrl-C; what it then says on stderr."""
    with process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    return err


def test_ctrl_c_says_that_the_job_runs_on_and_the_command_that_stops_it_works(sim, chain):
    Watch(sim)
    err = interrupt(run_until_it_waits(sim))
    [job_id] = sim.starts
    assert re.search(rf"job {job_id} runs on and is billed", err)

    stop = re.search(r"^To stop it: +(.*)$", err, re.MULTILINE)[1]
    done = subprocess.run(stop, shell=True, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    wait_until(lambda: sim.jobs[job_id].ended)
    assert "User Terminated" in {entry["statusReason"] for entry in sim.jobs[job_id].statuses}


def test_ctrl_c_says_how_to_go_on_and_that_command_works(sim, chain):
    watch = Watch(sim)
    err = interrupt(run_until_it_waits(sim))
    sim.on_request = watch.on_request

    resume = re.search(r"^To go on: +(.*)$", err, re.MULTILINE)[1]
    done = subprocess.run(resume, shell=True, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert_right(sim, result())


@pytest.mark.parametrize("where", ["../tool/main.py", "absolute"])
def test_the_commands_after_ctrl_c_work_where_main_py_lies_elsewhere(sim, chain, tmp_path, where):
    """The results and the .job files are in the current folder, the scripts in another."""
    watch = Watch(sim)
    tool = tmp_path / "tool"
    tool.mkdir()
    for name in ("main.py", "rescale_rest_api.py", "inputs"):
        shutil.move(str(chain / name), str(tool))
    err = interrupt(run_until_it_waits(sim, str(tool / "main.py") if where == "absolute" else where))
    sim.on_request = watch.on_request

    resume = re.search(r"^To go on: +(.*)$", err, re.MULTILINE)[1]
    done = subprocess.run(resume, shell=True, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert_right(sim, result())


@pytest.mark.parametrize(("when", "at"), [
    ("before", "first: POST jobs/"), ("before", "second: POST jobs/"), ("before", "first: POST jobs/ID/submit/"),
    ("after", "second: POST jobs/ID/submit/"), ("before", "second: GET files/ID/contents/"),
])
def test_ctrl_c_at_any_moment_leaves_a_chain_that_can_be_gone_on_with(sim, chain, when, at):
    watch = Watch(sim)
    process = start()
    done = threading.Event()

    def interrupt_once(record: Record, now: str) -> None:
        if now == when and watch.names[-1] == at and not done.is_set():
            done.set()
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            raise ConnectionAbortedError
        watch.on_request(record, now)

    sim.on_request = interrupt_once
    with process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert ("python main.py --resume" in err) == bool(list(Path().glob("*.job")))

    sim.on_request = watch.on_request
    go_on(sim)
