"""What the disk and the terminal can do to a chain: half-written files, full disks, lost screens, odd characters.

| promise | tests |
|---|---|
| a file gets its name when it is whole and on the disk, else the older one stays | finished, before, at_once |
| a job's id is on the disk before its start is asked for; where it cannot be written nothing is started | the same |
| what has come is kept on a full disk | full_disk |
| what a screen cannot show, or a screen that is gone, ends nothing | cannot_show, without_a_screen |
| printing goes through `logging`, without keys and control characters; the log file never ends a chain | log |
| progress: redrawn on a terminal, elsewhere a line each tenth | progress |
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import sys
import tarfile
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import SETTINGS, here, paths_asked, wait_until
from two_jobs import THREE, USER, paste, run_here

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
LINE = "변위 Größe 😀 \x1b[31m end"  # one that few terminals can show
CLEAN = LINE.replace("\x1b", "\ufffd")
FULL, BROKEN = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")


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
def test_a_file_that_cannot_be_finished_leaves_the_older_and_starts_no_second_job(
    sim, access, set_up, fail, name, step, error
):
    job_id, sim.resubmit = set_up(command="sleep 60\n"), "again"
    call = rescale.create_tar_gz if name == "rescale.tar.gz" else lambda: rescale.job_submit(*access, "job", job_id)
    Path("a.inp").write_bytes(b"new")
    if name != "job.job":  # which is made under its name
        Path(name).write_bytes(b"older")
    fail("flush" if name == "job.job" else step, name, error)
    told = (rescale.RescaleError, name) if isinstance(error, OSError) else (KeyboardInterrupt, None)
    harmless = name == "job.desktop" and isinstance(error, OSError)
    with contextlib.nullcontext() if harmless else pytest.raises(told[0], match=told[1]):
        call()
    assert name == "job.job" or Path(name).read_bytes() == b"older"
    assert not list(Path().glob("*.part"))
    assert (f"jobs/{job_id}/submit/" in paths_asked(sim, "POST")) == (name == "job.desktop")
    fail.wanted.clear()
    call()
    assert Path(name).read_bytes() != b"older"
    assert dict(sim.starts) == ({} if name == "rescale.tar.gz" else {job_id: 1})


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_a_job_s_id_before_anything_is_sent(
    sim, access, set_up, fail
):
    Path("a.inp").write_bytes(b"new")
    job_id = set_up()
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


def test_a_download_onto_a_full_disk_goes_on_when_there_is_room(sim, access, ended_job, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(rescale, "RANGE", (200_000, 200_000))
    content = os.urandom(1_000_000)
    job_id = ended_job({"rescale.tar.gz": content})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))  # what a full disk comes to
    try:
        with pytest.raises(rescale.RescaleError, match="kept"):
            rescale.job_download(*access, "job", job_id)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    asked, came = len(sim.requests), next(Path("job").iterdir()).stat().st_size
    assert 0 < came <= 500_000
    rescale.job_download(*access, "job", job_id)
    assert [(path.name, path.read_bytes()) for path in Path("job").iterdir()] == [("rescale.tar.gz", content)]
    wanted = [record.headers["Range"] for record in sim.requests[asked:] if "/contents/" in record.path]
    assert min(int(text[6:].partition("-")[0]) for text in wanted) == came  # what had come was not fetched again


@pytest.mark.parametrize("encoding", ["ascii", "cp949", "cp437", "utf-8"])
def test_what_the_terminal_cannot_show_is_shown_as_far_as_it_can(environment, fast, ended_job, monkeypatch, encoding):
    job_id = ended_job({"process_output.log": f"{LINE}\n".encode(), "rescale_failed.tar.gz": b""}, ("Completed", "no"))
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    assert rescale._main(["monitor", job_id]) == 1
    for text in (f"Job {job_id} : Completed\n", CLEAN):
        assert text.encode(encoding, "replace") in screen.buffer.getvalue()


@pytest.mark.parametrize("screen", ["| head -n 1", "> /dev/full 2>&1", ">&- 2>&-"], ids=["a pipe", "full", "closed"])
def test_a_whole_chain_ends_right_without_a_screen(edit, sim, screen):
    edit(batches=THREE[:2])
    assert paste(f"python main.py {screen}").returncode == 0
    wait_until(lambda: list(Path().glob("*@two@*/rescale.tar.gz")), 20)
    assert len(sim.starts) == 2


def test_a_screen_that_is_no_file_and_one_that_is_full_for_a_moment_get_the_lines_that_come(monkeypatch):
    class Tee(list):
        write, flush = list.append, lambda self: len(self) == 1 and exec("raise BlockingIOError")

    monkeypatch.setattr(sys, "stdout", Tee())
    Path("a.inp").touch()
    rescale.platform_my_token("https://kr.rescale.com", "Token 1234567890")
    rescale.create_tar_gz()
    assert "Successfully created" in sys.stdout[-1]


def test_what_is_printed_goes_through_logging_without_keys_and_control_characters(edit, sim, capsys):
    seen = io.StringIO()
    logging.getLogger("rescale_rest_api").addHandler(logging.StreamHandler(seen))
    with pytest.raises(SystemExit), rescale.chain(THREE, SETTINGS, input_path="inputs", arguments=[]):
        raise rescale.RescaleError(f"{LINE} {sim.token}")
    for text in (seen.getvalue(), capsys.readouterr().err, next(Path().glob("*.log")).read_text(encoding="utf-8")):
        assert f"{CLEAN} ***" in text


@pytest.mark.parametrize("fault", ["a full disk", "no locks"])
def test_a_log_that_cannot_be_written_or_locked_ends_no_chain(edit, sim, fast, monkeypatch, fault):
    edit(batches=THREE[:1])
    name = f"{USER}@one@20260101-000000"
    Path(f".{name}.chain").write_text('{"began": 1}')
    if fault == "a full disk":
        Path(f"{name}.log").symlink_to("/dev/full")
    else:  # a network share
        monkeypatch.setattr("fcntl.flock", lambda *_: exec("raise OSError(errno.ENOLCK, 'No locks available')"))
    assert run_here("--resume") == 0
    assert Path(name, "rescale.tar.gz").exists()


@pytest.mark.parametrize("terminal", [True, False], ids=["a terminal", "a file"])
def test_progress_is_one_line_on_a_terminal_and_elsewhere_one_each_tenth(sim, access, monkeypatch, terminal):
    screen = io.StringIO()
    screen.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(rescale, "PROGRESS_DELAY", 0)
    monkeypatch.setattr(rescale, "UPLOAD_TIMEOUT", 60)  # a busy machine would begin anew
    Path("field.bin").write_bytes(bytes(32 << 20))
    sim.upload_rate = 64 << 20  # bytes per second: it takes some 100 s of the library's time
    rescale.upload_local_files(*access, "field.bin")
    line, text = r"- uploading field.bin: (\d+) % of 32\.0 MB, [\d.,]+ MB/s, [\w ]+ left *[\r\n]", screen.getvalue()
    shares = [int(share) for share in re.findall(line, text)]
    assert shares == sorted(shares)
    assert 5 <= len(shares) <= (1000 if terminal else 10)
    parts = text.split("\n")[0].split("\r")  # each is written over the one before
    assert (parts[-1] == "- field.bin uploaded", not parts[-2:-1] or parts[-2].isspace()) == (terminal, True)
