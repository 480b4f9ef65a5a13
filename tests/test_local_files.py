"""What the disk and the terminal can do to a chain: half-written files, full disks, lost screens, odd characters.

| promise | tests |
|---|---|
| a file gets its name when it is whole and on the disk, its job is asked for only then; else the older one stays | each_fault |
| of two that pack at once one archive is whole, the other is told | pack_at_once |
| a full disk, a folder that is gone or that lacks locks: one sentence and nothing started, or no harm | full, gone, locks |
| what a screen cannot show, or a screen that is gone, ends nothing | cannot_show, without_a_screen |
| printing goes through `logging`, free of keys and of what acts on a terminal; the log file never ends a chain | log |
| progress: redrawn on a terminal, elsewhere a line each tenth | progress |
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import SPEED, here, wait_until
from test_main import THREE, edit  # noqa: F401
from two_jobs import USER, submissions, text_job

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
LINE = "변위 Größe 😀 \x1b[31m end"  # one that few terminals can show
SETTINGS = ("user_included", "0", {}, "emerald", 1, 1, 1, None)
FULL, BROKEN = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")


# Whole files


@pytest.fixture
def fail(monkeypatch):
    """Let the flush, or the naming, of a file of this name raise an error; `fail.steps` are those made so far."""

    def step(kind, name):
        fail.steps.append((kind, name))
        if fail.wanted.get((kind, name)):
            raise fail.wanted[kind, name]

    def fail(kind, name, error):
        fail.wanted[kind, name] = error

    def synced(number, fsync=os.fsync):
        [name] = [path.name for path in Path().iterdir() if os.path.samestat(os.fstat(number), path.stat())] or [""]
        step("flush", re.sub(r"^\.(.+)\.part$", r"\1", name))
        fsync(number)

    fail.steps, fail.wanted = [], {}
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", lambda path, target, replace=Path.replace: (
        step("name", target.name), replace(path, target)))
    return fail


@pytest.mark.parametrize(("step", "error"), [
    ("flush", FULL), ("flush", KeyboardInterrupt()), ("name", BROKEN), ("name", KeyboardInterrupt()),
], ids=["no room", "Ctrl-C at flush", "rename fails", "Ctrl-C at rename"])
@pytest.mark.parametrize("name", ["rescale.tar.gz", "job.job", "job.desktop"])
def test_a_file_that_cannot_be_finished_leaves_the_older_one_and_starts_no_second_job(sim, access, fail, name, step, error):
    job_id, sim.resubmit = text_job(sim, "sleep 60"), "again"
    Path("a.inp").write_bytes(b"new")
    for older in {"rescale.tar.gz", "job.desktop"} & {name}:
        Path(older).write_bytes(b"older")
    fail("flush" if name == "job.job" else step, name, error)  # a .job file is made under its name
    calls = [rescale.create_tar_gz] if name == "rescale.tar.gz" else [lambda: rescale.job_submit(*access, "job", job_id)]
    for call in calls:
        with contextlib.nullcontext() if name == "job.desktop" and isinstance(error, OSError) else pytest.raises(
                rescale.RescaleError if isinstance(error, OSError) else KeyboardInterrupt, match=f"({name})?"):
            call()
    assert name == "job.job" or Path(name).read_bytes() == b"older"
    assert [path for path in here() if path.endswith(".part")] == []
    assert len(submissions(sim)) == (name == "job.desktop")
    fail.wanted.clear()
    for call in calls:
        call()
    assert name == "job.job" or Path(name).read_bytes() != b"older"
    assert dict(sim.starts) == ({} if name == "rescale.tar.gz" else {job_id: 1})


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_the_job_s_id_before_anything_is_sent(sim, access, fail):
    Path("a.inp").write_bytes(b"new")
    job_id = text_job(sim)
    rescale.create_tar_gz()
    sim.on_request = lambda record, when: fail.steps.append((when, record.path.rsplit("/", 2)[1]))
    rescale.job_submit(*access, "job", job_id)
    assert [step for step in fail.steps if step[1] not in ("statuses", "state.json")] == [
        ("flush", "rescale.tar.gz"), ("name", "rescale.tar.gz"), ("flush", "job.job"), ("before", "submit"),
        ("after", "submit"), ("flush", "job.desktop"), ("name", "job.desktop")]


def test_of_two_that_pack_at_once_one_archive_is_whole_and_the_other_is_told(monkeypatch):
    Path("a.inp").write_bytes(b"new")
    inner = [rescale.create_tar_gz]
    monkeypatch.setattr(os, "fsync", lambda number: inner and inner.pop()())
    with pytest.raises(rescale.RescaleError, match=r"rescale\.tar\.gz"):
        rescale.create_tar_gz()
    with tarfile.open("rescale.tar.gz") as tar:
        assert tar.extractfile("a.inp").read() == b"new"
    assert here() == ["a.inp", "rescale.tar.gz"]


# Other processes, for what can be done to one only as a whole

PRELUDE = f"""import os, resource, sys, types, time as real, rescale_rest_api as rescale
rescale.time = types.SimpleNamespace(
    sleep=lambda seconds: real.sleep(seconds / {SPEED}), monotonic=lambda: {SPEED} * real.monotonic(), time=real.time)
url, token, job_id, size = sys.argv[1:]
if int(size): resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))  # what a full disk comes to
"""


def child(sim, job_id, script, size=0, **options):
    """Run a script in which files can have no more than `size` bytes."""
    variables = {"PYTHONPATH": str(Path(rescale.__file__).parent), **options.pop("variables", {})}
    arguments = [sys.executable, "-Bc", PRELUDE + script, sim.url, f"Token {sim.token}", job_id, str(size)]
    return subprocess.Popen(arguments, env={**os.environ, **variables}, **options)


def test_with_a_full_disk_no_job_is_started(sim, access):
    process = child(sim, text_job(sim), "rescale.job_submit(url, token, 'job', job_id)", 3, stderr=subprocess.PIPE)
    assert b"RescaleError: job.job cannot be written" in process.communicate(timeout=30)[1]
    assert not sim.starts


def test_a_download_onto_a_full_disk_goes_on_when_there_is_room(sim, access, ended_job):
    content = os.urandom(1_000_000)
    job_id = ended_job({"rescale.tar.gz": content})
    script = "rescale.RANGE = (200_000, 200_000)\nrescale.job_download(url, token, 'job', job_id)"
    process = child(sim, job_id, script, 500_000, stderr=subprocess.PIPE)
    assert b"\nrescale_rest_api.RescaleError" in process.communicate(timeout=60)[1]
    [part] = Path("job").iterdir()
    asked, came = len(sim.requests), part.stat().st_size
    assert 0 < came <= 500_000
    assert child(sim, job_id, script).wait(60) == 0
    assert [(path.name, path.read_bytes()) for path in Path("job").iterdir()] == [("rescale.tar.gz", content)]
    wanted = [record.headers["Range"] for record in sim.requests[asked:] if "/contents/" in record.path]
    assert min(int(text[6:].partition("-")[0]) for text in wanted) == came  # what had come was not fetched again


def test_a_working_folder_that_is_gone_is_told(sim, access, ended_job, clean_surroundings):
    """Scratch disks are cleared while a chain runs."""
    job_id = ended_job({"rescale.tar.gz": b"x"})
    (clean_surroundings / "gone").mkdir()
    os.chdir("gone")
    (clean_surroundings / "gone").rmdir()
    for name, *arguments in (("create_tar_gz",), ("upload_local_files", *access), ("job_submit", *access, "job", job_id),
                             ("job_download", *access, "job", job_id)):
        with pytest.raises(rescale.RescaleError):
            getattr(rescale, name)(*arguments)


# Terminals


@pytest.mark.parametrize("encoding", ["ascii", "cp949", "cp437:strict", "utf-8"])
def test_what_the_terminal_cannot_show_is_shown_as_far_as_it_can(sim, access, ended_job, encoding):
    job_id = ended_job({"process_output.log": LINE.encode()}, ("Completed", "no"))
    sim.jobs[job_id].data["jobanalyses"][0]["command"] = "of the web page"
    with child(sim, job_id, "try: rescale.job_monitor(url, token, job_id)\nexcept Exception as error: rescale._complain(str(error))",
               stdout=subprocess.PIPE, stderr=subprocess.PIPE, variables={"PYTHONIOENCODING": encoding}) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, f"Job {job_id} : Completed".encode() in out) == (0, True), err
    assert LINE.replace("\x1b", "\ufffd").encode(encoding.partition(":")[0], "replace") in err


@pytest.mark.parametrize("screen", ["| head -n 1", "> /dev/full 2>&1", ">&- 2>&-"], ids=["a pipe", "full", "closed"])
def test_a_whole_chain_ends_right_without_a_screen(edit, sim, screen):  # noqa: F811
    edit()
    done = subprocess.run(f"python main.py {screen}", shell=True, stdout=subprocess.DEVNULL, timeout=60, check=False)
    wait_until(lambda: list(Path().glob("*@three@*/rescale.tar.gz")), 20)
    assert (done.returncode, len(sim.starts)) == (0, 3)


# The log


def test_what_is_printed_goes_through_logging_free_of_keys_and_of_what_acts_on_a_terminal(edit, sim, capsys):  # noqa: F811
    edit()
    seen = io.StringIO()
    logging.getLogger("rescale_rest_api").addHandler(logging.StreamHandler(seen))
    with pytest.raises(SystemExit), rescale.chain(THREE, SETTINGS, input_path="inputs", arguments=[]):
        raise rescale.RescaleError(f"{LINE} {sim.token}")
    out, err = capsys.readouterr()
    [log] = Path().glob("*.log")
    for text in (seen.getvalue(), err, log.read_text(encoding="utf-8")):
        assert LINE.replace("\x1b", "\ufffd") + " ***" in text
        assert sim.token not in text
    assert "costs at most" in out


@pytest.mark.parametrize("fault", ["a full disk", "no locks"])
def test_a_log_that_cannot_be_written_or_locked_ends_no_chain(edit, sim, fast, monkeypatch, fault):  # noqa: F811
    edit()
    name = f"{USER}@one@20260101-000000"
    Path(f".{name}.chain").write_text('{"began": 1}')
    if fault == "a full disk":
        Path(f"{name}.log").symlink_to("/dev/full")
    else:  # a network share
        monkeypatch.setattr("fcntl.flock", lambda *_: exec("raise OSError(errno.ENOLCK, 'No locks available')"))
    monkeypatch.setattr(sys, "argv", ["main.py", "--resume"])
    runpy.run_path("main.py", run_name="__main__")
    assert list(Path().glob("*@three@*/rescale.tar.gz"))


# Progress


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("screen", ["a terminal", "a file"])
def test_progress_is_a_line_that_is_redrawn_on_a_terminal_and_elsewhere_one_each_tenth(sim, access, monkeypatch, screen):
    terminal = Terminal() if screen == "a terminal" else io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(rescale, "PROGRESS_DELAY", 0)
    Path("field.bin").write_bytes(bytes(32 << 20))
    sim.upload_rate = 64 << 20  # bytes per second: it takes some 100 s of the library's time
    rescale.upload_local_files(*access, "field.bin")
    text = terminal.getvalue()
    shown = re.findall(r"- uploading field.bin: (\d+) % of 32\.0 MB, [\d.,]+ MB/s, [\w ]+ left *([\r\n])", text)
    shares = [int(share) for share, _ in shown]
    assert shares == sorted(shares)
    if screen == "a terminal":
        assert len(shares) > 5
        last = ""
        for part in text.split("\n")[0].split("\r"):
            last = part + last[len(part):]
        assert last.rstrip() == "- field.bin uploaded"
    else:
        assert 5 <= len(shares) <= 10
        assert len({share // 10 for share in shares}) == len(shares)
