"""main.py, as people start it: what it starts and what not, what it prints, keeps and calls, and its exit statuses.

| promise | tests |
|---|---|
| as shipped it can be rehearsed, and its hints are rehearsals, too | shipped |
| a plain start beside an unfinished chain starts nothing, and names it and the next command | beside |
| --resume goes on with the newest chain, or the named one, and only confirms what is done | what_runs, two_chains |
| a chain at work is gone on with by no other process | beside |
| a chain is of its script, keeps its user's name, and of a rehearsal never the platform's | another_script, meets |
| --status shows all links and starts nothing; --help tells all | what_runs, help |
| 2 for what the sections or the folder show, before anything is sent | wrong_usage, folder |
| one message for what the platform refuses; a traceback for a slip in the script | mistake, slip, installed |
| after Ctrl-C: which job costs money and how to stop it, though all files are gone | ctrl_c |
| the log has every line with its time; at_end runs, without the key, not after Ctrl-C | log, at_end, ctrl_c |

The table is in test_commands.py, --repeat and --check in test_repeat.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tarfile
import threading
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import SETTINGS, TESTS, here, wait_until
from in_memory import KEY, PLATFORM, connect
from rescale_simulator import Fault, Simulator
from test_example import TOLERANCE, profile_error
from two_jobs import ROOT, THREE, USER, paste, result, run, start, steps

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals")
DONE = "zero\none\ntwo\nthree\n"
WAITS = 'until [ -e "$HOME/go" ]; do sleep 0.01; done\n'  # a command that lets its job run until there is such a file


def of(sim: Simulator) -> list[str]:
    """The batch names of the jobs that were started, in order."""
    return [sim.jobs[job_id].name.split("@")[1] for job_id in sim.starts]


def posts(sim: Simulator) -> int:
    return sum(record.method == "POST" for record in sim.requests)


def rows(text: str) -> dict[str, list[str]]:
    """The last table in a text: the cells of each row by batch name, from the job's id on."""
    lines = text[text.rindex("job   "):].splitlines()[1:]
    return {line.split("@")[1]: re.split(r" {2,}", line)[1:] for line in lines if re.match(r"\S+@\S+@", line)}


def started_ats() -> list[str]:
    return sorted({path.stem.rpartition("@")[2] for path in Path().glob("*@*.job")})


def running(sim: Simulator, number: int = 1, **more):
    """Start main.py, and wait until its job of this number executes."""
    process = start(**more)
    wait_until(lambda: len(list(Path().glob("*.desktop"))) == number and "Executing" in [
        entry["status"] for entry in list(sim.jobs.values())[-1].statuses], 20)  # behind submission, a link is written
    return process


def killed(sim: Simulator, number: int) -> None:
    """Start main.py, and kill it while its job of this number executes."""
    process = running(sim, number)
    process.kill()
    process.end()


def test_as_shipped_it_is_rehearsed_and_every_hint_of_a_failure_is_a_rehearsal_that_works_when_pasted(edit):
    """Until the profile is there that only both steps reach."""
    shutil.copy(ROOT / "main.py", "main.py")
    Path("tests").symlink_to(TESTS)
    done = paste("python tests/rescale_simulator.py --speed 0 --fail rod2 main.py")
    assert (done.returncode, "will be downloaded" in done.stdout) == (1, False), done.stderr
    hints = re.findall(r": +(\S*python\S* .*)", done.stderr)
    assert [hint.split()[-2] for hint in hints] == ["download", "--repeat"]
    for hint in hints:
        assert "rescale_simulator.py" in hint
        again = paste(hint)
        assert again.returncode == 0, again.stderr
    names = [f"{USER}@{batch}@{started_ats()[0]}" for batch in rows(again.stdout)]
    assert {path.name for path in Path().glob("[!.]*@*")} == {
        names[1], f"{names[0]}.log", f"{names[1]}.{rows(done.stdout)['rod2'][0]}",
        *(f"{name}.{kind}" for name in names for kind in ("job", "desktop"))}
    with tarfile.open(f"{names[1]}/rescale.tar.gz") as tar:
        tar.extract("./temperature.csv", "unpacked")
    assert profile_error(Path("unpacked/temperature.csv")) < TOLERANCE


@pytest.mark.parametrize(("state", "then", "how"), [
    ("waits", {}, "--resume"), ("runs", {}, "--resume"), ("runs", {"at_work": True}, ""),
    ("uploads", {"at_work": True}, ""), ("two", {}, "--repeat"), ("three", {"LOGNAME": "kim"}, "--repeat"),
    ("two", {"script": "other.py"}, "--repeat"), ("two", {"batches": [("uno", "true"), *THREE[1:]]}, "--repeat"),
    ("two", {"batches": [THREE[0], ("dos", "true")]}, "--resume"),
], ids=["a job waits", "a job runs", "its process runs, too", "it uploads, and has no job yet", "a link has failed",
        "by another user's name", "another script's", "its first batch renamed", "its second batch renamed"])
def test_beside_an_unfinished_chain_nothing_is_started_until_new_says_so(edit, sim, state, then, how):
    then, gate = dict(then), threading.Event()
    at_work, batches = then.pop("at_work", False), then.pop("batches", THREE)
    sim.fail = state if state in ("two", "three") else None
    if sim.fail:
        assert run()[0] == 1
    else:
        edit(batches=[THREE[0], ("two", WAITS), THREE[2]])
        sim.speed = 20 if state == "waits" else 0
        if state == "uploads":
            sim.on_request = lambda record, when: record.path.endswith("/files/contents/") and gate.wait(20)
        process = running(sim, 2) if state == "runs" else start()
        wait_until(lambda: posts(sim) and (state != "waits" or sim.starts), 20)
        if not at_work:
            process.kill()
            process.end()
    shutil.copy("main.py", "other.py")
    edit(batches=batches)
    [name] = [path.stem for path in Path().glob("*@one@*.log")]
    started, before, at = of(sim), posts(sim), name.split("@")[2]
    sim.on_request = sim.fail = None
    for option in ("--resume", "--repeat") if at_work else ():
        status, _, err = run(option)
        assert (status, "another process" in err) == (1, True)
    status, out, err = run(**then)
    assert (of(sim), posts(sim)) == (started, before)
    assert {path.stem for path in Path().glob("[!.]*@*@*") if "@one@" in path.name} == {name}  # no trace of another
    assert at in out + err
    assert (status, "python main.py --new" in err.replace("other.py", "main.py")) == (2, True)
    assert f"{how} {at}" in err or not how  # nobody can go on with a chain that is at work
    gate.set()
    if at_work:
        process.kill()
    sim.speed = 0
    assert run("--new", **then)[0] == 0
    assert len({path.stem for path in Path().glob("*@*.log")}) == 2


@pytest.mark.parametrize("there", ["its only job failed", "it is finished", "another account's", "no chain's files"])
def test_beside_what_is_no_unfinished_chain_another_one_is_started(edit, sim, there):
    sim.fail = "one" if there == "its only job failed" else None
    at = "20260101-000000"
    lookalikes = (f"one@{at} (copy)", f"one@{at}.sync-conflict-20260102-ABC", "one@20260101", f"one@{at}_old",
                  f"one@fine@{at}", f"One@{at}", f"four@{at}")
    if there in ("its only job failed", "it is finished"):
        assert run()[0] == (1 if sim.fail else 0)
    for name in {"another account's": [f"one@{at}"], "no chain's files": lookalikes}.get(there, ()):
        Path(f"{USER}@{name}.job").write_text("abcXYZ\n")
    for option in ("--resume", "--repeat", "--status") if there == "no chain's files" else ():
        status, _, err = run(option)
        assert (status, str(Path.cwd()) in err, posts(sim)) == (2, True, 0)
    sim.fail, before = None, len(sim.starts)
    assert run()[0] == 0
    assert of(sim)[before:] == ["one", "two", "three"]
    assert steps(result("three")) == DONE if there != "it is finished" else len(started_ats()) == 2


@pytest.mark.parametrize("option", ["--resume", "--repeat"])
def test_what_runs_is_followed_and_what_is_done_only_confirmed(edit, sim, option):
    edit(batches=[THREE[0], ("two", WAITS + THREE[1][1]), THREE[2]])
    killed(sim, 2)
    again, second = start(option), list(sim.jobs.values())[1]
    wait_until(lambda: f"Job {second.id} : Executing" in again.printed(), 20)

    before, files = posts(sim), here()
    status, out, err = run("--status")  # from another terminal
    assert (status, err, posts(sim), here()) == (0, "", before, files)
    assert {name: cells[1] for name, cells in rows(out).items()} == {
        "one": "succeeded", "two": "running", "three": "not started"}

    (second.folder / "go").touch()
    status, out, err = again.end()
    assert (status, err, of(sim)) == (0, "", ["one", "two", "three"])
    assert f"Job {second.id} : submitted earlier" in out
    assert steps(result("three")) == DONE

    before = posts(sim)
    status, out, err = run(option)
    assert (status, err, posts(sim)) == (0, "", before)
    words = ("one, two: succeeded earlier", "was here already", *["--repeat --from"] * (option == "--repeat"))
    assert [word for word in words if word not in out] == []


@pytest.mark.parametrize(("option", "memory"), [
    ("--status", True), ("--status", False), ("--resume", True), ("--repeat", True),
], ids=["status", "status, without the memory by the .job files", "resume", "repeat"])
def test_of_two_chains_the_one_that_began_last_is_meant_whatever_the_clock_said(edit, sim, option, memory):
    """Names hold local time: in Seoul it is nine hours later. Dates of files do not survive copies."""
    edit(batches=[("one", "exit 1")])
    assert paste("TZ=Asia/Seoul python main.py").returncode == 1
    edit(batches=[("one", "exit 2")])
    assert paste("TZ=UTC python main.py --new").returncode == 1
    newest, seoul = started_ats()
    assert newest < seoul
    for path in Path().glob(f"*{seoul}.job" if memory else ".*.chain"):
        os.utime(path) if memory else path.unlink()
    edit(batches=[("one", "true")])
    before = list(sim.starts)
    status, out, _ = run(option)
    assert status == (1 if option == "--resume" else 0)
    assert (f"{USER}@one@{newest} " in out, seoul in out) == (True, False)
    assert len(sim.starts) - len(before) == (option == "--repeat")
    assert rows(run("--status", seoul)[1])["one"][0] == before[0]
    assert run(option, "20200101-000000")[0] == 2


def test_a_chain_of_another_rehearsal_is_not_taken_one_of_another_script_by_name_and_keeps_its_user(edit, sim):
    sim.fail = "two"
    assert run(LOGNAME="kim")[0] == 1
    sim.fail, before = None, posts(sim)
    shutil.copy("main.py", "other.py")
    [at] = started_ats()
    for option in ("--resume", "--repeat", "--status"):
        assert run(option, script="other.py")[0] == run(option, constants={"REHEARSAL": "another folder"})[0] == 2
    assert posts(sim) == before
    status, _, err = run("--repeat", at, script="other.py", LOGNAME="lee")
    assert (status, err) == (0, "")
    assert {job.name.split("@")[0] for job in sim.jobs.values()} == {"kim"}
    assert of(sim) == ["one", "two", "two", "three"]


@pytest.mark.parametrize("key", [KEY, ""], ids=["", "without a key"])
@pytest.mark.parametrize("arguments", [["--status"], ["--resume"], []], ids=["status", "resume", "a new chain"])
def test_the_platform_never_meets_a_chain_of_a_rehearsal(monkeypatch, capsys, arguments, key):
    """A new chain passes it over."""
    sent, name = [], f"{USER}@one@20260101-000000"
    told = (1, "RESCALE_API_KEY") if not key else (2, "rehearsal") if arguments else (1, "Nothing was started")
    Path(f"{name}.job").write_text("abCdEf\n")
    Path(f".{name}.chain").write_text('{"began": 1, "rehearsed": "a folder"}')
    monkeypatch.setenv("RESCALE_API_URL", PLATFORM)
    monkeypatch.setenv("RESCALE_API_KEY", key)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    connect(lambda request: sent.append(request.url) or (
        (200, {"email": "a@b"}) if "users/me" in request.url else (404, {"detail": "Not found."})))
    with pytest.raises(SystemExit) as ended, rescale.chain([("one", "true\n")], SETTINGS, arguments=arguments):
        raise AssertionError("it went on")
    assert (ended.value.code, told[1] in capsys.readouterr().err) == (told[0], True)
    assert all("users/me" in url for url in sent) or not arguments


def test_help_tells_of_every_option_and_what_the_exit_statuses_mean(edit, sim):
    status, out, _ = run("--help")
    assert (status, sim.requests) == (0, [])
    options = ("--new", "--resume", "--repeat", "--from BATCH", "--status", "--check")
    assert [word for word in (*options, "STARTED_AT", "130") if word not in out] == []
    assert [option for option in options if option not in (ROOT / "main.py").read_text() and option != "--new"] == []


@pytest.mark.parametrize(("arguments", "batches"), [
    (["--restart"], THREE), (["one"], THREE), (["--new", "--resume"], THREE), (["--from", "one"], THREE),
    ([], [THREE[0], THREE[0]]), ([], [THREE[0], ("One", "true")]), ([], []), ([], [("a/b", "true")]),
    ([], [("", "true")]), ([], [("one", "\n")]), ([], [("one", "abaqus job=one\n")]),
], ids=["unknown option", "an argument", "two options", "--from alone", "twice", "differing in case", "none",
        "no file name", "no name", "no command", "abaqus that does not wait"])
def test_wrong_usage_is_told_with_2_before_anything_is_sent_or_written(arguments, batches, edit, sim):
    edit(batches=batches)
    files = here()
    status, _, err = run(*arguments)
    assert (status, sim.requests, here()) == (2, [], files)
    assert "main.py" in err or "batch" in err or "interactive" in err


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which root cannot write")
@pytest.mark.parametrize("option", ["", "--check"], ids=["plain", "check"])
@pytest.mark.parametrize("fault", ["read-only", "full"])
def test_a_folder_that_cannot_be_written_is_told_with_2_before_anything_is_sent(edit, sim, fault, option):
    # Where root cannot write either; or files may have no more than 1 KB, which is what a full disk comes to.
    done = paste(f"{'cd /proc' if fault == 'read-only' else 'ulimit -f 1'}; python -B {edit() / 'main.py'} {option}")
    assert (done.returncode, sim.requests) == (2, []), done.stderr
    assert ("cannot be written" in done.stderr, "Traceback" in done.stderr) == (True, False)


@pytest.mark.parametrize(("variables", "sections", "words"), [
    ({"RESCALE_API_KEY": ""}, {}, ["my_token", "RESCALE_API_KEY"]),
    ({"RESCALE_API_KEY": "wrong-wrong-wrong"}, {}, ["401", "Invalid token"]),
    ({"RESCALE_API_URL": "http://kr.rescale.com"}, {}, ["http://kr.rescale.com", "https://"]),
    ({}, {"code_name": "abacus"}, ["abacus", "abaqus"]),
    ({}, {"input_path": "no such folder"}, ["no such folder"]),
    ({}, {"walltime": "an hour"}, ["walltime", "an hour"]),
], ids=["no token", "wrong token", "http", "unknown tile", "unknown folder", "walltime"])
def test_a_mistake_is_told_in_one_message_before_anything_is_uploaded(variables, sections, words, edit, sim):
    edit(**sections)
    status, _, err = run(**variables)
    assert (status, posts(sim)) == (1, 0)
    assert [word for word in (*words, "Nothing was started") if word not in err] == []
    assert "wrong-wrong" not in err


@pytest.mark.parametrize(("slip", "words"), [
    ("a name", r"Traceback.*\"main\.py\", line \d+.*AttributeError: .*no_such"),
    ("requests", r"^main\.py cannot start: .*requests"), ("the library", r"^main\.py cannot start: .*rescale_rest_api"),
], ids=["a slip is an ordinary traceback", "requests is not installed", "the library is not beside it"])
def test_what_is_wrong_with_the_script_itself_is_told_and_starts_nothing(edit, sim, slip, words):
    if slip == "a name":
        text = Path("main.py").read_text(encoding="utf-8").replace("rescale.job_setup", "rescale.no_such")
        Path("main.py").write_text(text, encoding="utf-8")
    if slip == "the library":
        Path("rescale_rest_api.py").unlink()
    done = paste(f"python {'-S' if slip == 'requests' else ''} main.py")
    assert (done.returncode, sim.jobs) == (1, {})
    assert re.search(words, done.stderr.replace(f"{Path.cwd()}/", ""), re.S)


@pytest.mark.parametrize("gone", ["nothing", "the .job files", "the folder"])
def test_after_ctrl_c_the_job_is_named_that_costs_money_and_the_command_that_stops_it_works(edit, sim, tmp_path, gone):
    folder = edit(batches=[("one", WAITS)], at_end=f"touch {tmp_path / 'ended'}")
    process, [job_id] = running(sim), sim.starts
    if gone == "the folder":
        shutil.rmtree(folder)
    elif gone == "the .job files":
        next(Path().glob("*.job")).unlink()
    process.kill(signal.SIGINT)
    status, _, err = process.end()
    assert (status, f"Job {job_id} is still running and costs money" in err) == (130, True)
    os.chdir(edit())
    assert paste(re.search(r"^To stop it: +(.*)$", err, re.MULTILINE)[1]).returncode == 0
    wait_until(lambda: sim.jobs[job_id].ended)
    assert not (tmp_path / "ended").exists()


@pytest.mark.parametrize("job", ["has ended", "is unknown"])
def test_of_a_job_that_costs_nothing_any_more_it_is_not_said_that_it_does(edit, sim, job):
    edit(batches=THREE[:1])
    sim.faults.append(Fault("corrupt", "GET", "/contents/", times=99))
    sim.on_request = lambda record, when: job == "is unknown" and sim.starts and sim.jobs.clear()
    status, _, err = run()
    assert (status, f"--resume {started_ats()[0]}" in err, "money" in err, "stop" in err) == (1, True, False, False)


def test_the_log_has_all_that_is_said_with_its_local_time_and_ends_with_the_next_command(edit, sim):
    edit(batches=[("정적", "echo fine"), ("two", "echo no licence >&2; exit 3")])
    status, out, err = run()
    [log] = Path().glob("*@정적@*.log")
    text = log.read_text(encoding="utf-8")
    form = re.compile(r"(?:(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) {0,2})?(.*)")
    lines = [form.fullmatch(line).groups() for line in text.splitlines()]
    began, said = log.stem.rpartition("@")[2], [line for _, line in lines if line]
    last = [time for time, _ in lines if time][-1]  # what was said in several lines has its time once
    assert began <= re.sub(r"[-:]", "", last).replace(" ", "-") < began[:7] + "99"
    assert sorted(said) == sorted(line for line in (out + err).splitlines() if line)
    words = (f"rescale_rest_api {rescale.__version__}: main.py", "2 of 2: two", "exit code 3", "no licence")
    assert [word for word in words if not any(word in line for line in said)] == []
    assert rows("\n".join(said))["two"][1] == "FAILED (exit code 3)"
    assert (status, said[-1].endswith(f"python main.py --repeat {began}"), sim.token in text) == (1, True, False)


@pytest.mark.parametrize(("fails", "then"), [(False, "true"), (True, "true"), (False, "exit 4"), (True, "sleep 60")],
                         ids=["success", "failure", "success, and it fails itself", "failure, and it hangs"])
def test_at_end_runs_after_success_and_failure_without_the_key_and_changes_nothing(edit, sim, fails, then):
    at_end = f'env > ended; echo "$CHAIN_SUMMARY" > summary; {then}'
    edit(batches=[("one", "exit 3" if fails else "true")], at_end=at_end)
    status, out, err = run(constants={"AT_END_TIMEOUT": 0.5})
    variables = dict(line.split("=", 1) for line in Path("ended").read_text().splitlines() if "=" in line)
    [name] = [path.stem for path in Path().glob("*.job")]
    assert (status, variables["CHAIN_NAME"], "--repeat" in err) == (fails, name, fails)
    assert variables["CHAIN_STATUS"] == ("failed" if fails else "succeeded")
    assert rows(Path("summary").read_text())["one"][1] == ("FAILED (exit code 3)" if fails else "succeeded")
    assert (sim.token in Path("ended").read_text(), "at_end failed" in out) == (False, then != "true")
