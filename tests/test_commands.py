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


def test_what_settings_prints_can_be_pasted_into_main_py_as_a_whole(sim, access):
    result = run(sim, "settings", start(access))
    assert result.returncode == 0, result.stderr
    pasted = {}
    exec(result.stdout, pasted)  # all of it
    assert pasted["coretype_code"] == "emerald"
    assert pasted["command"] == "echo result > out; echo a line"


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
    assert Path(command[1].strip("'\"")).samefile(MODULE)
    assert run(sim, *command.groups()[1:]).returncode == 0
    assert {path.name for path in Path("come@back").iterdir()} == {"rescale_failed.tar.gz", "process_output.log"}


@pytest.mark.parametrize("form", [
    "{url}/jobs/{id}/runs/1/results/", "{url}/api/v2/jobs/{id}/", "come@back.job", " {id}",
], ids=["its page", "its address", "its file", "a blank"])
def test_a_job_is_also_known_by_its_page_or_its_job_file(sim, access, form):
    job_id = start(access)
    done = run(sim, "monitor", form.format(url=sim.url, id=job_id))
    assert done.returncode == 0, done.stderr
    assert f"Job {job_id} : Completed" in done.stdout


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


# The overview


def cells(capsys) -> list[list[str]]:
    """The rows of the table that was printed, its head first."""
    return [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines() if line]


@pytest.mark.parametrize("prices", [True, False], ids=["prices", "none"])
def test_the_overview_has_a_word_for_each_outcome_its_times_its_cost_and_where_the_result_is(
    sim, access, run_job, ended_job, capsys, prices
):
    sim.prices = prices
    jobs = {
        "fine@": run_job("true", job_name="fine@"), "bad@": run_job("exit 7", job_name="bad@"),
        "stopped@": ended_job({}, ("Executing", None), ("Stopping", ""), ("Completed", "User Terminated")),
        "runs@": start(access, "runs@", "sleep 30"),
    }
    wait_until(lambda: sim.jobs[jobs["runs@"]].statuses[-1]["status"] == "Executing")
    sim.speed = 20
    jobs = {**jobs, "waits@": start(access, "waits@"), "not@": None, "gone@": "abcXYZ"}
    long = sim.jobs[jobs["fine@"]]
    long.data["jobanalyses"][0]["hardware"].update(coresPerSlot=4, slots=2)
    for entry, clock in zip(long.statuses, ("00:00", "00:10", "00:11", "00:12", "00:15", "01:45")):
        entry["statusDate"] = f"2026-01-01T{clock}:00Z"
    rescale.job_download(*access, "fine@", jobs["fine@"])
    capsys.readouterr()

    rescale.chain_overview(*access, jobs)

    head, *rows = cells(capsys)
    assert head == ["job", "id", "outcome", "waited", "executed", "core-hours", *["cost"] * prices, "result"]
    assert [(row[0], row[1]) for row in rows] == [(name, job_id or "-") for name, job_id in jobs.items()]
    assert [row[2] for row in rows] == [
        "succeeded", "FAILED (exit code 7)", "stopped", "running", "waiting", "not started", "unknown here"]
    assert rows[0][3:] == ["15 min", "1 h 30 min", "12.00", *["0.72"] * prices, f"fine@{os.sep}"]
    assert rows[1][-1] == "on the platform"
    assert rows[2][-1] == "none"


def test_a_restarted_job_executes_and_waits_in_turns(sim, access, ended_job, capsys):
    job_id = ended_job({"rescale.tar.gz": b"x"})
    sim.jobs[job_id].statuses[:] = [
        {"status": status, "statusReason": None, "statusDate": f"2026-01-01T{clock}Z"}
        for clock, status in [("00:00:00", "Queued"), ("00:10:00", "Executing"), ("01:10:00", "Queued"),
                              ("01:15:00", "Executing"), ("02:15:00", "Completed")]
    ]
    rescale.chain_overview(*access, {"job": job_id})
    assert cells(capsys)[-1][3:5] == ["15 min", "2 h 00 min"]


def test_an_overview_lines_up_korean_names_and_survives_a_lost_request(sim, access, run_job, capsys):
    links = {name: run_job("true", job_name=name) for name in ("정적@1", "long-name@1")}
    sim.faults.append(Fault("503", times=1))
    rescale.chain_overview(*access, links)
    table = capsys.readouterr().out
    rows = table.splitlines()[-2:]
    assert "?" not in table
    places = [row[:row.index(job_id)] for row, job_id in zip(rows, links.values())]
    assert places[0].count("적") == 1
    assert len(places[0]) + 2 == len(places[1])  # each Korean letter takes two columns


def test_the_overview_shows_what_it_cannot_know_as_a_question_mark(sim, access, run_job, capsys):
    links = {"one@": run_job("true"), "two@": None}
    sim.faults.append(Fault("503", times=100))
    rescale.chain_overview(*access, links)
    assert [row[2] for row in cells(capsys)[1:]] == ["?", "not started"]


def test_a_download_of_a_job_that_still_runs_says_so_at_once(sim, access):
    job_id = start(access, command="sleep 30")
    wait_until(lambda: sim.jobs[job_id].statuses[-1]["status"] == "Executing")
    before = len(sim.requests)
    with pytest.raises(rescale.RescaleError, match=f"has not ended, its status is Executing.* monitor {job_id}"):
        rescale.job_download(*access, "job", job_id)
    assert len(sim.requests) == before + 1


# Progress


def progress_of_an_upload(sim, access, monkeypatch):
    """Upload a file in some 100 s of the library's time."""
    monkeypatch.setattr(rescale, "PROGRESS_DELAY", 0)
    Path("field.bin").write_bytes(bytes(32 << 20))
    sim.upload_rate = 64 << 20
    rescale.upload_local_files(*access, "field.bin")


def test_in_a_log_file_the_progress_is_a_line_now_and_then(sim, access, monkeypatch, capsys):
    progress_of_an_upload(sim, access, monkeypatch)
    lines = [line for line in capsys.readouterr().out.splitlines() if "uploading field.bin" in line]
    assert 3 <= len(lines) <= 12  # one per tenth, or per half minute, of some 100 s
    assert all(re.fullmatch(r"- uploading field.bin: \d+ % of 32.0 MB, [\d.,]+ MB/s(, .* left)?", line)
               for line in lines), lines
    shares = [int(line.split()[3]) for line in lines]
    assert shares == sorted(shares)


def test_on_a_terminal_the_progress_is_one_line_that_goes_away(sim, access, monkeypatch, capsys):
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    progress_of_an_upload(sim, access, monkeypatch)
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
    assert min(int(re.match(r"bytes=(\d+)-", text)[1]) for text in ranges) == kept
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
    assert "Interrupted" in err
    assert "Traceback" not in err


def test_the_overview_does_not_wait_for_a_platform_that_throttles(sim, access, clock, set_up, capsys):
    job_id = set_up()
    sim.faults.append(Fault("throttled", times=999, retry_after="600"))
    rescale.chain_overview(*access, {"one": job_id, "two": job_id})
    assert capsys.readouterr().out.count(" ?") == 2
    assert clock.now < 60
    rescale._throttled[sim.url] = clock.monotonic() + 600  # as another connection has been told
    rescale.chain_overview(*access, {"one": job_id})
    assert clock.now < 60
