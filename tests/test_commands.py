"""`python rescale_rest_api.py …`: coming back to a job without editing anything; and the overview of a chain."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import wait_until
from rescale_simulator import Fault

MODULE = Path(rescale.__file__)
USER_INCLUDED = ("user_included", "0", {}, "emerald", 1, 1, 1, None, [])


def start(access, name="come@back", command="echo result > out; echo a line"):
    job_id = rescale.job_setup(*access, name, command, *USER_INCLUDED)
    rescale.job_submit(*access, name, job_id)
    return job_id


def run(sim, *arguments):
    return subprocess.run(
        [sys.executable, str(MODULE), *arguments], capture_output=True, text=True, timeout=60,
        env={**os.environ, "RESCALE_API_URL": sim.url, "RESCALE_API_KEY": sim.token},
    )


def test_a_finished_job_is_monitored_and_its_result_downloaded_into_a_folder_of_its_name(sim, access):
    job_id = start(access)
    monitored = run(sim, "monitor", job_id)
    assert f"Job {job_id} : Completed" in monitored.stdout, monitored.stderr
    downloaded = run(sim, "download", job_id)
    assert (monitored.returncode, downloaded.returncode) == (0, 0), downloaded.stderr
    assert Path("come@back/rescale.tar.gz").stat().st_size > 0


def test_settings_prints_what_main_py_needs(sim, access):
    result = run(sim, "settings", start(access))
    assert result.returncode == 0, result.stderr
    assert "coretype_code = 'emerald'" in result.stdout
    assert "command = 'echo result > out; echo a line'" in result.stdout


def test_stop_ends_a_running_job_and_monitor_then_exits_with_1(sim, access):
    job_id = start(access, command="sleep 60")
    while not any(entry["status"] == "Executing" for entry in sim.jobs[job_id].statuses):
        time.sleep(0.01)
    stopped = run(sim, "stop", job_id)
    assert stopped.returncode == 0, stopped.stderr
    assert f"Job {job_id} : stop requested" in stopped.stdout
    monitored = run(sim, "monitor", job_id)
    assert monitored.returncode == 1
    assert "User Terminated" in monitored.stderr


def test_the_partial_result_of_a_failed_job_is_fetched_with_the_command_that_its_message_names(sim, access):
    job_id = start(access, command="echo partial > out; exit 3")
    message = run(sim, "monitor", job_id).stderr
    command = re.search(r"fetch it with: python (.+) (download) (\w+)", message)
    assert command, message
    assert Path(command[1].strip('"')).samefile(MODULE)
    assert run(sim, *command.groups()[1:]).returncode == 0
    assert {path.name for path in Path("come@back").iterdir()} == {"rescale.tar.gz", "process_output.log"}


@pytest.mark.parametrize(("arguments", "code", "hint"), [
    (["download", "not/an/id"], 1, "no job id"),
    (["download", "abcXYZ"], 1, "404"),
    (["monitor"], 2, "usage"),
    (["destroy", "abcXYZ"], 2, "usage"),
    (["stop", "abcXYZ", "--profile", "nowhere"], 1, "profile 'nowhere'"),
])
def test_a_command_that_cannot_be_done_says_why(sim, arguments, code, hint):
    result = run(sim, *arguments)
    assert result.returncode == code
    assert hint in result.stderr
    assert "Traceback" not in result.stderr


def test_a_profile_chooses_the_account(sim, access):
    config = Path.home() / ".config" / "rescale" / "apiconfig"
    config.parent.mkdir(parents=True)
    config.write_text(f"[other]\napibaseurl = {sim.url}\napikey = '{sim.token}'\n", encoding="utf-8")
    config.chmod(0o600)
    result = subprocess.run(
        [sys.executable, str(MODULE), "settings", start(access), "--profile", "other"],
        capture_output=True, text=True, timeout=60,
    )
    assert result.returncode == 0, result.stderr


def test_the_overview_tells_of_each_link_its_times_and_where_its_result_is(sim, access, capsys):
    links = {name: start(access, name, "sleep 1; head -c 3000000 /dev/urandom > out") for name in ("one@", "two@")}
    for job_id in links.values():
        rescale.job_monitor(*access, job_id)
    rescale.job_download(*access, "two@", links["two@"])
    capsys.readouterr()
    rescale.chain_overview(*access, {**links, "gone@": "abcXYZ"})
    empty, head, one, two, gone = capsys.readouterr().out.splitlines()
    assert empty == ""
    assert head.split() == ["job", "id", "status", "waited", "executed", "result", "where"]
    pattern = r"{} +{} +Completed +\d s +[1-9] s +2\.8\d\d MB +{}"
    assert re.fullmatch(pattern.format("one@", links["one@"], "on the platform"), one), one
    assert re.fullmatch(pattern.format("two@", links["two@"], re.escape(f"two@{os.sep}")), two), two
    assert re.fullmatch(r"gone@ +abcXYZ( +\?){5}", gone), gone


def test_a_restarted_job_executes_and_waits_in_turns():
    at = rescale._date
    history = [
        rescale._Status(at(f"2026-01-01T{clock}Z"), status, None)
        for clock, status in [("00:00:00", "Queued"), ("00:10:00", "Executing"), ("01:10:00", "Queued"),
                              ("01:15:00", "Executing"), ("02:15:00", "Completed")]
    ]
    assert rescale._times(history) == ("15 min", "2 h 00 min")


def test_an_overview_survives_a_lost_request_and_lines_up_korean_names(sim, access, capsys):
    links = {name: start(access, name) for name in ("정적@1", "long-name@1")}
    for job_id in links.values():
        rescale.job_monitor(*access, job_id)
    capsys.readouterr()
    sim.faults.append(Fault("503", times=1))
    rescale.chain_overview(*access, links)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert "?" not in "".join(rows)
    assert len({rescale._width(row[:row.index(mark)]) for row, mark in zip(rows, ["id", *links.values()])}) == 1


def test_a_download_of_a_job_that_still_runs_says_so(sim, access, monkeypatch):
    monkeypatch.setattr(rescale, "FILES_PATIENCE", 3)
    job_id = start(access, command="sleep 30")
    wait_until(lambda: sim.jobs[job_id].statuses[-1]["status"] == "Executing")
    with pytest.raises(rescale.RescaleError, match="no output files; its status is Executing"):
        rescale.job_download(*access, "job", job_id)


# Progress


def progress_of_an_upload(access, clock, monkeypatch, size=32 << 20):
    """Upload a file at 0.25 MB/s, as the library's clock sees it."""
    monkeypatch.setattr(rescale, "PROGRESS_DELAY", 0)
    Path("field.bin").write_bytes(bytes(size))
    real = rescale._FixedLength.read

    def slow(self, length=-1):
        clock.now += 4 * length / 2**20
        return real(self, length)

    monkeypatch.setattr(rescale._FixedLength, "read", slow)
    rescale.upload_local_files(*access, "field.bin")


def test_in_a_log_file_the_progress_is_a_line_per_tenth_at_the_most(access, clock, monkeypatch, capsys):
    progress_of_an_upload(access, clock, monkeypatch)
    lines = [line for line in capsys.readouterr().out.splitlines() if "uploading field.bin" in line]
    assert len(lines) == 9
    assert all(re.fullmatch(r"- uploading field.bin: \d+ % of 32.0 MB, [\d.,]+ MB/s(, .* left)?", line)
               for line in lines), lines
    shares = [int(line.split()[3]) for line in lines]
    assert [share // 10 for share in shares] == list(range(1, 10))


def test_on_a_terminal_the_progress_is_one_line_that_goes_away(access, clock, monkeypatch, capsys):
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    progress_of_an_upload(access, clock, monkeypatch)
    text = terminal.getvalue()
    lines = text.split("\n")
    assert lines[0].count("\r- uploading field.bin: ") > 5
    screen = ""
    for part in lines[0].split("\r"):
        screen = part + screen[len(part):]
    assert screen.rstrip() == "- field.bin uploaded"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_on_a_real_terminal_ctrl_c_ends_a_download_at_once_and_the_next_one_goes_on(sim, access, tmp_path):
    job_id = start(access, command="head -c 120000000 /dev/urandom > out")
    rescale.job_monitor(*access, job_id)
    sim.rate = 4 << 20  # bytes per second and connection
    terminal, theirs = pty.openpty()
    client = subprocess.Popen(
        [sys.executable, str(MODULE), "download", job_id], stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, env={**os.environ, "RESCALE_API_URL": sim.url, "RESCALE_API_KEY": sim.token},
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )
    os.close(theirs)
    seen = b""
    while b"downloading: " not in seen:
        seen += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    began = time.monotonic()
    while True:
        try:
            block = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not block:
            break
        seen += block
    assert client.wait(30) == 130, seen
    assert time.monotonic() - began < 10
    os.close(terminal)
    text = seen.decode()
    assert re.search(r"\r- downloading: \d+ % of 11\d\.\d MB, [\d.]+ MB/s, \d+ s left", text), text
    assert "Interrupted" in text
    assert not Path("come@back/rescale.tar.gz").exists()
    kept = sum(path.stat().st_size for path in Path("come@back").iterdir())
    assert kept > 1 << 20
    sim.rate, before = None, len(sim.requests)
    assert run(sim, "download", job_id).returncode == 0
    ranges = [record.headers.get("Range", "") for record in sim.requests[before:] if "contents" in record.path]
    assert any(int(re.match(r"bytes=(\d+)-", text)[1]) % rescale.RANGE for text in ranges if text), ranges
    assert [path.name for path in Path("come@back").iterdir()] == ["rescale.tar.gz"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c_ends_a_download_at_once_over_a_line_that_hardly_moves(sim, access):
    job_id = start(access, command="head -c 1000 /dev/urandom > out")
    rescale.job_monitor(*access, job_id)
    sim.rate = 5  # bytes per second
    environment = {**os.environ, "RESCALE_API_URL": sim.url, "RESCALE_API_KEY": sim.token}
    with subprocess.Popen([sys.executable, str(MODULE), "download", job_id], stderr=subprocess.PIPE, text=True,
                          env=environment) as client:
        wait_until(lambda: any("contents" in record.path for record in sim.requests), 20)
        time.sleep(1)  # the answer's head comes with its first byte
        client.send_signal(signal.SIGINT)
        _, err = client.communicate(timeout=10)
    assert client.returncode == 130
    assert err.strip() == "Interrupted; a job that runs goes on."
