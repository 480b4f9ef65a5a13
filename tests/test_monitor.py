"""6. job_monitor: what it shows while a job runs, when it ends, and which jobs it takes for a success."""

from __future__ import annotations

import math
import pickle
import re
import time

import pytest
import requests

import rescale_rest_api as rescale
from in_memory import JOB_ID, PLATFORM, TOKEN, Platform, a_list, connect, history
from rescale_simulator import Fault, Run
from two_jobs import text_job

LOG = "process_output.log"
ARCHIVE = {"rescale.tar.gz": b"the archive"}
SETTINGS = ("user_included", "0", {}, "emerald", 1, 1, 1, None)
HAPPY = ["Pending", "Queued", "Started", "Validated", "Executing", "Completed"]


@pytest.fixture
def shown(access, clock, capsys):
    """Monitor a job to its end; return the printed lines, the job's id in them replaced by ID."""

    def monitor(job_id):
        capsys.readouterr()
        assert rescale.job_monitor(*access, job_id) is None
        return capsys.readouterr().out.replace(job_id, "ID").splitlines()

    return monitor


@pytest.fixture
def failure(access, clock):
    """Monitor a job that fails; return the error."""

    def monitor(job_id):
        with pytest.raises(rescale.JobFailed) as failed:
            rescale.job_monitor(*access, job_id)
        assert failed.value.job_id == job_id
        return failed.value

    return monitor


@pytest.fixture
def executing(sim, clock, set_up):
    """Make a job that executes and goes one step on whenever its log is looked at, and then succeeds.

    A step is a text that is added to the log, or something to do.
    """

    def make(*steps, log=LOG):
        job = sim.jobs[set_up()]
        (job.work / log).parent.mkdir(parents=True)
        for status in ("Pending", "Executing"):
            sim.add_status(job, status)
        job.date_started = sim.now()
        left = list(steps)

        def go_on(record, moment):
            if "/tail/" not in record.path or moment != "before" or job.ended:
                return
            if not left:
                (job.work / log).unlink(missing_ok=True)
                (job.work / "rescale.tar.gz").write_bytes(b"the archive")
                job.date_completed = sim.now()
                Run(sim, job).sync()
                sim.add_status(job, "Completed", "Completed successfully", last=True)
                return
            step = left.pop(0)
            if callable(step):
                step()
            else:
                with (job.work / log).open("a") as file:
                    file.write(step)

        sim.on_request = go_on
        return job.id

    return make


@pytest.fixture
def idle(clock, monkeypatch):
    """A clock for waits of hours that take no time at all, where nothing else happens meanwhile."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return clock


def text(first, last):
    """Lines of a log, with numbers to tell them apart."""
    return "".join(f"iteration {number}\n" for number in range(first, last + 1))


def log_part(lines):
    """What was printed between `Executing` and `Completed`."""
    return lines[lines.index("Job ID : Executing") + 1 : lines.index("Job ID : Completed")]


def turn(sim, quirks):
    for name, value in quirks.items():
        setattr(sim, name, value)


# Statuses


@pytest.mark.parametrize("quirks", [
    pytest.param({}, id="newest first"),
    pytest.param({"newest_first": False, "date_style": "Z"}, id="oldest first"),
    pytest.param({"date_style": "none"}, id="newest first, no dates"),
    pytest.param({"newest_first": False, "date_style": "none"}, id="oldest first, no dates"),
    pytest.param({"date_style": "partly"}, id="newest first, some dates"),
    pytest.param({"newest_first": False, "date_style": "partly"}, id="oldest first, some dates"),
    pytest.param({"page_size_cap": 1, "newest_first": False}, id="a page each"),
    pytest.param({"page_size_cap": 2, "next_without_slash": True}, id="next without slash"),
    pytest.param({"page_size_cap": 2, "next_drops_query": True}, id="next without query"),
    pytest.param({"page_size_cap": 4, "empty_last_page": True}, id="a page that is promised and empty"),
    pytest.param({"empty_last_page": True}, id="one page, and one that is empty"),
])
def test_every_status_is_shown_once_and_in_order_however_they_are_listed(quirks, sim, clock, shown, run_job):
    job_id = run_job()
    turn(sim, quirks)
    assert shown(job_id) == [f"Job ID : {status}" for status in HAPPY]
    assert clock.now < 10  # seconds; there is nothing to wait for


@pytest.mark.parametrize("listed", ["543210", "012345", "501234", "102435"])
def test_dates_of_any_style_decide_what_is_shown_first(listed, sim, shown, run_job):
    job_id = run_job()
    dates = [
        "2026-01-02T03:04:05Z", "2026-01-02T12:04:05.5+09:00", "2026-01-02T03:04:06.000001+00:00",
        "2026-01-02T03:04:07.123456789Z", "2026-01-01T23:04:08.1-04:00", "2026-01-02T03:04:09+00:00",
    ]
    statuses = sim.jobs[job_id].statuses
    for entry, date in zip(statuses, dates):
        entry["statusDate"] = date
    statuses[:] = [statuses[int(index)] for index in reversed(listed)]
    assert shown(job_id) == [f"Job ID : {status}" for status in HAPPY]


@pytest.mark.parametrize("newest_first", [True, False], ids=["newest first", "oldest first"])
@pytest.mark.parametrize("oddity", [
    pytest.param({"clock_skew": 0.3}, id="Executing dated behind Completed"),
    pytest.param({"clock_skew": -3600.0}, id="a clock set back"),
    pytest.param({"date_style": "none"}, id="no dates"),
    pytest.param({"date_style": "partly"}, id="some dates"),
    pytest.param({"statusDate": "2026-01-02T03:04:05Z"}, id="equal dates"),
    pytest.param({"statusDate": "2026-13-45T99:99:99Z"}, id="impossible dates"),
    pytest.param({"statusDate": 5}, id="dates that are none"),
    *[pytest.param({"last_status": status}, id=f"ending as {status}")
      for status in ("COMPLETED", " Completed ", "completed", "Archived", "Finished")],
])
def test_a_job_has_ended_when_its_history_says_so_whatever_the_dates_and_the_spelling(
    oddity, newest_first, clock, sim, shown, run_job
):
    turn(sim, {name: value for name, value in oddity.items() if name != "statusDate"})
    job_id = run_job()
    sim.newest_first = newest_first
    for entry in sim.jobs[job_id].statuses if "statusDate" in oddity else ():
        entry["statusDate"] = oddity["statusDate"]
    ended = oddity.get("last_status", "Completed").strip()
    assert sorted(shown(job_id)) == sorted(f"Job ID : {status}" for status in [*HAPPY[:-1], ended])
    assert clock.now < 10


@pytest.mark.parametrize("status", [
    "Failed", "Stopped", "Force Stopped", "FORCE_STOPPED", "Terminated", "Cancelled", "Canceled", " error ", "Aborted",
])
def test_a_job_that_ends_under_a_bad_name_has_failed(status, sim, ended_job, failure):
    error = failure(ended_job(ARCHIVE, ("Executing", None), (status, None)))
    assert error.reason == status.strip()


def test_statuses_that_come_and_go_between_two_looks_are_shown_too(clock, sim, ended_job, shown):
    job = sim.jobs[ended_job(ARCHIVE, ("Pending", None))]
    looks = {
        2: ["Queued", "Started", "Started"],
        4: ["Queued", "Started", "Validated", "Executing", "Queued"],
        5: ["Executing", "Executing", "Completed"],
    }
    asked = []

    def go_on(record, moment):
        if record.path.endswith("/statuses/") and moment == "before":
            asked.append(record)
            for status in looks.get(len(asked), ()):
                sim.add_status(job, status, last=status == "Completed")

    sim.on_request = go_on
    assert [line for line in shown(job.id) if line != "Waiting....."] == [f"Job ID : {status}" for status in [
        "Pending", "Queued", "Started", "Queued", "Started", "Validated", "Executing", "Queued", "Executing",
        "Completed",
    ]]
    assert len(asked) == 5


def test_the_status_is_asked_every_5_s_and_the_log_every_15_s_of_execution(access, clock, sim, executing):
    looks = {"statuses": [], "tail": []}
    job_id = executing(text(1, 3), text(4, 4), "", text(5, 6))
    job = sim.jobs[job_id]
    del job.statuses[1]  # not executing yet
    go_on = sim.on_request

    def watch(record, moment):
        for kind, seen in looks.items():
            if f"/{kind}/" in record.path and moment == "before":
                seen.append((clock.now, record.query))
        if len(looks["statuses"]) == 5 and len(job.statuses) == 1:
            sim.add_status(job, "Executing")
        go_on(record, moment)

    sim.on_request = watch
    rescale.job_monitor(*access, job_id)
    asked = [now for now, _ in looks["statuses"]]
    assert asked == [5.0 * number for number in range(len(asked))]
    assert [now for now, _ in looks["tail"]] == [20.0, 35.0, 50.0, 65.0, 80.0]
    assert {query["lines"] for _, query in looks["tail"]} == {"20"}


def test_a_draft_is_told_after_a_minute_a_late_first_status_waited_for(access, clock, sim, set_up, ended_job, shown):
    draft = set_up()
    with pytest.raises(rescale.RescaleError, match="never submitted") as failed:
        rescale.job_monitor(*access, draft)
    assert draft in str(failed.value)
    assert not isinstance(failed.value, rescale.JobFailed)
    assert 30 <= clock.now <= 300

    clock.now = 0
    late = sim.jobs[ended_job(ARCHIVE)]
    came, late.statuses = late.statuses, []
    sim.on_request = lambda *_: setattr(late, "statuses", came if clock.now >= 30 else [])
    assert shown(late.id)[-1] == "Job ID : Completed"


# The log


@pytest.mark.parametrize("growth", [
    pytest.param([3, 4, 5], id="fits"), pytest.param([1, 0, 0, 1], id="pauses"),
    pytest.param([19, 19, 19], id="just fits"), pytest.param([25, 3], id="long at once"),
    pytest.param([5, 21, 4], id="one missed"), pytest.param([5, 40, 0, 40, 19], id="many missed"),
    pytest.param([0, 7], id="empty at first"),
])
def test_each_line_is_shown_once_in_order_with_dots_where_some_were_missed(growth, executing, shown):
    steps, expected, total = [], [], 0
    for number in growth:
        steps.append(text(total + 1, total + number))
        seen = min(number, 20)
        expected += ["..."] * (number > 20)
        expected += text(total + number - seen + 1, total + number).splitlines()
        total += number
    assert log_part(shown(executing(*steps))) == expected


@pytest.mark.parametrize(("steps", "lines"), [
    pytest.param(["a\na\na\n", "a\nb\n", "b\n", "\n\n", "\n", "a\na\n"],
                 ["a", "a", "a", "a", "b", "b", "", "", "", "a", "a"], id="equal lines"),
    pytest.param(["one\n\n", text(1, 30)], ["one", "", "...", *text(11, 30).splitlines()], id="missed behind an empty"),
    pytest.param(["one\ntw", "o\nthree\n"], ["one", "tw", "two", "three"], id="half written"),
    pytest.param(["(exit $status)\n", "one\n", "# (exit $rescale_status)\n", "two\n"],
                 ["(exit $status)", "one", "# (exit $rescale_status)", "two"], id="like our own"),
    pytest.param(["\x1b[2Jwiped\x07 out\n", "압력 1.0e5\ttab\n"],
                 ["\N{REPLACEMENT CHARACTER}[2Jwiped\N{REPLACEMENT CHARACTER} out", "압력 1.0e5\ttab"], id="control"),
])
def test_lines_that_are_hard_to_tell_apart_or_to_print_are_shown_right(steps, lines, executing, shown):
    assert log_part(shown(executing(*steps))) == lines


def test_the_command_itself_is_not_part_of_what_is_shown_of_the_log(access, clock, sim, set_up, shown):
    sim.speed = 0.02
    job_id = set_up(command="echo hello; sleep 0.2; echo bye; sleep 0.2\n")
    rescale.job_submit(*access, "job", job_id)
    lines = shown(job_id)
    assert [line for line in lines if line.startswith("Job ID : ")] == [f"Job ID : {status}" for status in HAPPY]
    log = [re.sub(r"^\[.*?\]: ?", "", line) for line in log_part(lines)]
    assert set(log) <= {"hello", "bye", "Waiting.....", "...", ""}
    assert [line for line in log if line in ("hello", "bye")] == ["hello", "bye"]


@pytest.mark.parametrize("style", ["404", "400", "html"])
def test_until_the_log_can_be_read_waiting_is_shown_once(style, sim, executing, shown):
    def not_yet():
        job.date_started = None

    def now():
        job.date_started = sim.now()

    sim.tail_off_run = style
    job_id = executing(not_yet, "", "", text(1, 2), now, text(3, 3))
    job = sim.jobs[job_id]
    assert log_part(shown(job_id)) == ["Waiting.....", *text(1, 3).splitlines()]


@pytest.mark.parametrize("fault", ["500", "html", "truncated", "reset_before", "reset_midway", "throttled", "redirect"])
def test_a_look_at_the_log_that_fails_ends_nothing_and_loses_no_line(fault, sim, executing, shown):
    sim.faults.append(Fault(fault, path="tail", skip=1, times=2))
    lines = shown(executing(*(text(number, number) for number in range(1, 7))))
    assert log_part(lines) == text(1, 6).splitlines()


def test_the_log_is_also_looked_for_in_shared(executing, shown):
    lines = shown(executing(text(1, 2), "", text(3, 4), "", text(5, 6), log=f"shared/{LOG}"))
    assert [line for line in log_part(lines) if line != "Waiting....."] == text(1, 6).splitlines()
    assert lines.count("Waiting.....") == 1


def test_a_log_that_is_quiet_for_half_an_hour_is_told_every_half_hour(clock, executing, shown):
    def wait(minutes):
        def later():
            clock.now += 60 * minutes

        return later

    lines = log_part(shown(executing(
        text(1, 1), wait(29), "", wait(1), wait(20), wait(10), "", wait(20), text(2, 2), wait(29), wait(1), ""
    )))
    quiet = [line for line in lines if not line.startswith("iteration")]
    assert [lines.index(line) for line in quiet] == [1, 2, 4]
    for line, executed, silent in zip(quiet, ["30 min", "1 h 0", "1 h 5"], ["30 min", "1 h 0", "30 min"]):
        assert re.search(rf"execut.* {executed}.*\b{silent}", line), line


def test_the_last_lines_of_a_job_from_the_web_page_are_shown_too(access, clock, sim, shown):
    """They came after the last look at the log, which stays where the job does not pack it."""
    job_id = text_job(sim, 'echo one; until [ -e "$HOME/go" ]; do sleep 0.01; done; echo two\n')
    sim.on_request = lambda record, _: (sim.jobs[job_id].folder / "go").touch() if "/tail/" in record.path else None
    rescale.job_submit(*access, "job", job_id)
    lines = [re.sub(r"^\[.*?\]: ?", "", line) for line in shown(job_id)]
    assert [line for line in lines if line in ("one", "two")] == ["one", "two"]
    assert "Exited with code 0" in lines


# The verdict

GOOD, BAD, ODD = "Completed successfully", "A run failed", "Ended"
STAMP = "[2026-01-02T03:04:05Z]: "
CLOSINGS = {  # what the log ends with; last: a phrase that only a program has printed
    "none": None,
    "0": f"{STAMP}Exited with code 0\n{STAMP}\n",
    "3": f"{STAMP}one\n{STAMP}Exited with code 3\n{STAMP}\n",
    "0 before": f"{STAMP}mesher.sh: Exited with code 0\n{STAMP}Exited with code 0\n{STAMP}iteration 7\n",
    "3 before": f"{STAMP}the mesher Exited with code 3, once more\n{STAMP}Exited with code 3\n{STAMP}iteration 7\n",
}
VERDICTS = [  # + for a success; one for each of CLOSINGS, in their order
    # made by, leaves an archive, reason, verdicts
    ("job_setup", True, GOOD, "++-++"),  # the archive is the proof, and only a closing line is one against it
    ("job_setup", True, None, "++-++"),
    ("job_setup", True, ODD, "++-++"),
    ("job_setup", True, BAD, "-----"),
    ("job_setup", False, GOOD, "-----"),
    ("job_setup", False, None, "-----"),
    ("job_setup", False, ODD, "-----"),
    ("job_setup", False, BAD, "-----"),
    ("web page", True, GOOD, "++-++"),
    ("web page", True, None, "-+---"),
    ("web page", True, ODD, "-+---"),
    ("web page", True, BAD, "-----"),
    ("web page", False, GOOD, "++-++"),
    ("web page", False, None, "-+---"),
    ("web page", False, ODD, "-+---"),
    ("web page", False, BAD, "-----"),
]


def verdict_on(statuses, files, made_by="job_setup"):
    """+ or -, as job_monitor and file_previous_job say it."""
    named = {f"file{number}": (name, content) for number, (name, content) in enumerate(files.items())}
    connect(Platform(statuses, named, made_here=made_by == "job_setup"))
    verdicts = ""
    for call in (rescale.job_monitor, rescale.file_previous_job)[: 1 + ("rescale.tar.gz" in files)]:
        try:
            call(PLATFORM, TOKEN, JOB_ID)
            verdicts += "+"
        except rescale.RescaleError as error:
            verdicts += "-" if call == rescale.file_previous_job or isinstance(error, rescale.JobFailed) else "?"
    assert len(set(verdicts)) == 1, "what is a success for the one is none for the other"
    return verdicts[0]


@pytest.mark.parametrize(("made_by", "archive", "reason", "verdicts"), [
    pytest.param(*row, id=f"{row[0]}, {'an' if row[1] else 'no'} archive, {row[2] or 'no reason'}") for row in VERDICTS
])
def test_the_archive_proves_the_success_of_a_job_of_ours_and_reason_and_closing_line_that_of_others(
    made_by, archive, reason, verdicts, idle
):
    found = ""
    for log in CLOSINGS.values():
        files = {**(ARCHIVE if archive else {"result.odb": b"1"}), **({LOG: log.encode()} if log else {})}
        found += verdict_on((("Executing", None), ("Completed", reason)), files, made_by)
    assert dict(zip(CLOSINGS, found)) == dict(zip(CLOSINGS, verdicts))


@pytest.mark.parametrize(("statuses", "verdict"), [
    pytest.param("Executing Stopping:Capacity Queued Executing Completed", "+", id="started again after a stop"),
    pytest.param("Executing Force_Stop Executing STOPPING Executing Completed", "+", id="started again twice"),
    pytest.param("Executing Queued Executing Completed", "+", id="started again without a stop"),
    pytest.param("Executing Stopping:Capacity Completed:Completed_successfully", "-", id="stopped"),
    pytest.param("Executing Force_Stop Completed:Completed_successfully", "-", id="stopped by force"),
    pytest.param("Executing Stopping Queued Executing Stopping Completed", "-", id="stopped again"),
    pytest.param("Executing Queued Completed:Exceeded_max_number_of_restarts", "-", id="never came back"),
    pytest.param("Executing Completed:User_Terminated", "-", id="terminated"),
    pytest.param("Queued Completed", "-", id="never executed"),
    pytest.param("Queued Completed:Out_of_budget", "-", id="never executed, for another reason"),
    pytest.param("Queued Completed:Could_not_allocate_compute_resources_from_the_compute_provider", "-", id="no core"),
])
def test_what_the_history_says_of_a_stop_goes_before_the_archive(statuses, verdict, idle):
    entries = [entry.replace("_", " ").partition(":") for entry in statuses.split()]
    files = ARCHIVE if "Executing" in statuses else {}
    assert verdict_on([(status, reason or None) for status, _, reason in entries], files) == verdict
    assert idle.now < 300  # the files of a failed job are not waited for as those of a good one are


@pytest.mark.parametrize(("quirks", "command", "reason"), [
    pytest.param({}, "exit 3\n", "A run failed", id="as documented"),
    pytest.param({"stopping_entry": False, "failed_reason": None}, "exit 3\n", "exit code 3", id="no reason"),
    pytest.param({"ignore_exit_codes": True}, "exit 3\n", "exit code 3", id="called a success"),
    pytest.param({"ignore_exit_codes": True, "listing_lag": 3}, "exit 3\n", "exit code 3", id="listed late"),
    pytest.param({"ignore_exit_codes": True, "shared_work": True}, "exit 3\n", "exit code 3", id="in shared"),
    pytest.param({"stopping_entry": False, "failed_reason": None}, "sh -c 'kill -9 $$'\n", "137", id="killed"),
    pytest.param({"fail": "job"}, "true\n", "A run failed", id="rehearsed"),
    pytest.param({"walltime_hour": 0.2}, "sleep 60\n", "Walltime limit reached", id="walltime"),
    pytest.param({"walltime_hour": 0.2, "walltime_syncs": False}, "sleep 60\n", "Walltime", id="walltime, no files"),
    pytest.param({"never_runs": "Out of budget"}, "true\n", "Out of budget", id="never ran"),
])
def test_every_way_to_fail_is_told_with_its_reason(quirks, command, reason, clock, sim, run_job, failure):
    turn(sim, quirks)
    assert reason in str(failure(run_job(command)))


@pytest.mark.parametrize("quirks", [
    pytest.param({"success_reason": None}, id="no reason"),
    pytest.param({"success_reason": " completed  SUCCESSFULLY "}, id="the reason in another spelling"),
    pytest.param({"success_reason": None, "listing_lag": 2, "shared_work": True}, id="in shared, listed late"),
    pytest.param({"success_reason": None, "upload_lag": 2, "size_lag": 3}, id="stored late"),
    pytest.param({"lists_inputs": "all"}, id="inputs listed"),
    pytest.param({"lists_inputs": "none"}, id="inputs not listed"),
])
def test_a_job_that_succeeds_is_a_success_however_it_is_reported(quirks, clock, sim, run_job, shown):
    turn(sim, quirks)
    assert shown(run_job("echo Exited with code 3\n", {"rod.inp": b"x"}))[-1] == "Job ID : Completed"


@pytest.mark.parametrize("reason", [GOOD, None], ids=["called a success", "no reason"])
@pytest.mark.parametrize("lists_inputs", ["left", "all", "none"])
def test_a_job_that_was_killed_at_its_walltime_is_no_success_on_the_strength_of_its_input(
    reason, lists_inputs, access, clock, sim, run_job, failure
):
    """Although its log says that something exited with code 0, and its input has the right name."""
    result = run_job("echo 1 > first.odb\n")
    turn(sim, {"walltime_hour": 0.2, "walltime_reason": reason, "lists_inputs": lists_inputs})
    job_id = rescale.job_setup(
        *access, "next", "echo mesher.sh: Exited with code 0; sleep 60\n", *SETTINGS,
        rescale.file_previous_job(*access, result),
    )
    rescale.job_submit(*access, "next", job_id)
    sim.on_request = lambda *_: sim.jobs[job_id].statuses.__setitem__(
        slice(None), [entry for entry in sim.jobs[job_id].statuses if entry["status"] != "Stopping"])
    failure(job_id)
    with pytest.raises(rescale.RescaleError):
        rescale.file_previous_job(*access, job_id)


def test_in_a_list_that_names_the_inputs_the_own_result_is_taken(access, clock, sim, shown):
    """In a chain of three, job 3 got job 1's result."""
    sim.lists_inputs, inputs, results = "all", [], []
    for number in range(3):
        job_id = rescale.job_setup(
            *access, f"job{number}", f"echo {number} >> steps.txt\n", *SETTINGS, inputs
        )
        rescale.job_submit(*access, f"job{number}", job_id)
        shown(job_id)
        inputs = rescale.file_previous_job(*access, job_id)
        assert inputs[0]["id"] in sim.jobs[job_id].files
        results += inputs
    assert len({entry["id"] for entry in results}) == 3


def test_of_a_huge_log_only_the_end_is_fetched(sim, ended_job, failure):
    log = b"".join(b"[2026-01-02T03:04:05Z]: %09d \xff %s\n" % (number, b"x" * 100) for number in range(50_000))
    log += b"[2026-01-02T03:04:05Z]: Exited with code 9\n[2026-01-02T03:04:05Z]: \n"
    for number, quirk in enumerate(("checksums", "ignore_range", "contents_redirect")):
        setattr(sim, quirk, "none" if quirk == "checksums" else True)
        error = failure(ended_job({LOG: log}, ("Executing", None), ("Completed", None)))
        assert len(error.log_lines) == 40, number
        assert "000049999" in error.log_lines[-3]
        assert "000049961" not in str(error)
        assert "exit code 9" in str(error)
    for record in sim.requests + sim.storage_requests:
        if record.path.endswith("/contents/") or record in sim.storage_requests:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", record.headers["Range"]).groups()
            assert int(last) == len(log) - 1
            assert int(last) - int(first) < 1_000_000


@pytest.mark.parametrize(("archive", "minutes"), [(True, (5, 65)), (False, (55, 130))], ids=["late", "never"])
def test_a_list_may_be_late_by_an_hour_but_not_for_ever(archive, minutes, idle, capsys):
    platform = Platform(files={"arChiv": ("rescale.tar.gz", b"1")})
    connect(lambda request: (200, a_list()) if "/files/" in request.url and (idle.now < 300 or not archive)
            else platform(request))
    if archive:
        rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    else:
        with pytest.raises(rescale.JobFailed):
            rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    assert minutes[0] <= idle.now / 60 <= minutes[1]
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ") and JOB_ID in line]
    assert bool(told) == (not archive)


# What a failure tells


def test_a_failed_job_is_told_with_reason_last_lines_and_where_to_look(sim, run_job, failure):
    lines = "".join(f"echo line {number}\n" for number in range(1, 61))
    job_id = run_job(f"{lines}exit 3\n")
    error = failure(job_id)
    words = str(error)
    assert error.reason == "A run failed"
    assert "A run failed" in words
    assert "exit code 3" in words
    log = [re.sub(r"^\s*\[.*?\]: ?", "", line) for line in words.splitlines() if re.match(r"\s*\[\d{4}-", line)]
    assert len(log) == len(error.log_lines) == 40
    assert [line for line in log if line.startswith("line")] == [f"line {number}" for number in range(23, 61)]
    assert "Exited with code 3" in log
    assert f"{sim.url}/jobs/{job_id}/runs/1/results/" in words
    assert f"rescale_rest_api.py download {job_id}" in words


@pytest.mark.parametrize("error", [
    rescale.RescaleError("no such job", 404, 7.0), rescale.JobFailed("it failed", JOB_ID, "A run failed", ["one"]),
], ids=["RescaleError", "JobFailed"])
def test_errors_survive_pickling_as_between_the_processes_of_a_pool(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


LICENCES, SERVER, TIME, DISK, MEMORY, PROGRAM, FILE = (  # a word of each sentence
    "license_features", "license_info", "walltime", "storage", "memory per core", "code_name", "input_path")
MEANINGS = [
    ("Licensed number of users already reached. (-4,132:10054 \"\")", LICENCES),
    ("Abaqus Error: All licenses for abaqus are in use.", LICENCES),
    ("FlexNet Licensing error:-15,570. System Error: 115 \"Operation now in progress\"", SERVER),
    ("Cannot connect to license server system.", SERVER),
    ("ANSYS LICENSE MANAGER ERROR: The license could not be checked out: license server machine is down", SERVER),
    ("slurmstepd: error: *** JOB 42 ON node1 CANCELLED AT 2026-01-02T03:04:05 DUE TO TIME LIMIT ***", TIME),
    ("tar: rescale.tar.gz: Cannot write: No space left on device", DISK),
    ("forrtl: Disk quota exceeded", DISK),
    ("slurmstepd: error: Detected 1 oom-kill event(s) in step 42.0", MEMORY),
    ("terminate called after throwing an instance of 'std::bad_alloc'", MEMORY),
    ("mmap: Cannot allocate memory", MEMORY),
    ("command.sh: line 7: abaqsu: command not found", PROGRAM),
    ("dash: 7: fluent: not found", PROGRAM),
    ("cat: beam.inp: No such file or directory", FILE),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'beam.inp'", FILE),
    ("Abaqus Error: The following file(s) could not be located: Input file beam.inp not found", FILE),
    # What stands in logs of jobs that had another trouble.
    ("Abaqus/Standard checked out 5 tokens from Flexnet server lic.example.com.", None),
    ("Abaqus License Manager checked out the following licenses:", None),
    ("<95 out of 100 licenses remain available>.", None),
    ("Total wall time: 0:00:03", None),
    ("MEMORY ESTIMATE: minimum memory required 38 MB, memory to minimize I/O 111 MB", None),
    ("THE ANALYSIS HAS NOT BEEN COMPLETED", None),
    ("***ERROR: TOO MANY ATTEMPTS MADE FOR THIS INCREMENT", None),
    ("residual 1.2e-3: not converged", None),
    ("Reading file beam.inp", None),
]


@pytest.mark.parametrize(("line", "meaning"), [
    pytest.param(*row, id=f"{number}") for number, row in enumerate(MEANINGS)
])
def test_the_end_of_the_log_is_explained_in_one_sentence_where_engineers_know_it(line, meaning, idle):
    log = f"{STAMP}step 1\n{STAMP}{line}\n{STAMP}Exited with code 1\n".encode()
    connect(Platform([("Executing", None), ("Completed", "A run failed")], {"loGloG": (LOG, log)}))
    with pytest.raises(rescale.JobFailed) as failed:
        rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    told = [word for word in (LICENCES, SERVER, TIME, DISK, MEMORY, PROGRAM, FILE) if word in str(failed.value)]
    assert told == ([meaning] if meaning else [])
    assert not meaning or str(failed.value).count(line) == 2  # in the log, and behind the sentence


# Outages


def no_route(request):
    raise requests.ConnectionError("No route to host")


@pytest.mark.parametrize("call", ["job_monitor", "job_download", "file_previous_job", "job_settings"])
def test_a_platform_that_never_answered_is_given_up_after_a_minute_with_the_likely_causes_first(call, idle, capsys):
    connect(no_route)
    with pytest.raises(rescale.RescaleError) as error:
        getattr(rescale, call)(PLATFORM, TOKEN, *(["job"] if call == "job_download" else []), JOB_ID)
    assert 30 <= idle.now <= 90
    first = str(error.value).splitlines()[0]
    assert all(word in first for word in ("platform.example", "spelt", "network", "HTTPS_PROXY"))
    assert "the job runs on" not in capsys.readouterr().out + str(error.value)


@pytest.mark.parametrize("seen", [True, False], ids=["of a job that was seen", "before the job was seen"])
def test_an_outage_is_told_every_ten_minutes_and_sat_out_and_only_a_job_that_was_seen_runs_on(seen, idle, capsys):
    platform, asked, began = Platform(), [], []

    def answer(request):
        asked.append(idle.now)
        if len(asked) == 1:  # somebody is there
            return (200, history(("Executing", None))) if seen else (502, b"")
        if "/tail/" in request.url:
            return 404, {"detail": "Not found."}
        began.append(idle.now)
        return no_route(request) if idle.now - began[0] < 3 * 3600 else platform(request)

    connect(answer)
    rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    assert 17 <= len(lines) <= 20
    assert all("no connection to platform.example" in line for line in lines[:-1])
    assert all(("the job runs on" in line) == seen for line in lines[:-1])
    assert re.search(r"platform.example is back after 3 h 0\d min", lines[-1])
    assert len(asked) < 4 * 90


@pytest.mark.parametrize("odd", [
    *[pytest.param((status, b"<html>Sign in</html>", {"Content-Type": "text/html"}), id=f"HTML with {status}")
      for status in (400, 401, 403, 404, 405)],
    pytest.param((404, b"", {}), id="404 with nothing"),
    pytest.param((200, a_list({"statusDate": None}, {"status": None}, {"status": 5})), id="entries without a status"),
    pytest.param((200, {"detail": "maintenance"}), id="no list"),
    pytest.param((200, a_list("Queued")), id="a list of words"),
    pytest.param((200, a_list()), id="a history that is empty for a moment"),
    pytest.param((200, history(("Pending", None))), id="a history that is behind the times"),
    pytest.param((429, {"detail": "throttled"}, {"Retry-After": "2000000"}), id="told to come back in weeks"),
])
def test_an_answer_that_is_not_the_platforms_own_does_not_end_a_monitor(odd, idle, capsys):
    platform, asked = Platform(), []

    def answer(request):
        asked.append(request)
        if len(asked) == 1:
            return 200, history(("Pending", None), ("Executing", None))
        return (404, {}) if "/tail/" in request.url else odd if len(asked) < 6 else platform(request)

    connect(answer)
    rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Job ")]
    assert sorted({line.rpartition(" ")[2] for line in lines}) == ["Completed", "Executing", "Pending", "Queued"]
    assert idle.now < 5 * 3600


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_the_platforms_own_refusal_ends_a_monitor_at_once(status, idle):
    platform, asked = Platform([("Executing", None)]), []

    def answer(request):
        asked.append(request)
        return (status, {"detail": "Nothing doing."}) if len(asked) > 3 else platform(request)

    connect(answer)
    with pytest.raises(rescale.RescaleError, match=f"{status}.*Nothing doing") as error:
        rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    assert not isinstance(error.value, rescale.JobFailed)
    assert idle.now < 30


@pytest.mark.parametrize("unreachable", [0, 300], ids=["at once", "after five minutes"])
@pytest.mark.parametrize(("reason", "code"), [(None, 0), (GOOD, 3)], ids=["success", "failure"])
def test_what_only_the_log_tells_is_told_after_an_outage(reason, code, unreachable, idle):
    platform = Platform([("Executing", None), ("Completed", reason)], made_here=False, files={
        "loGloG": (LOG, f"{STAMP}Exited with code {code}\n".encode())})
    connect(lambda request: (503, b"") if "/contents/" in request.url and idle.now < unreachable else platform(request))
    if code:
        with pytest.raises(rescale.JobFailed, match="exit code 3"):
            rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    else:
        rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    assert idle.now >= unreachable


def test_a_job_whose_files_cannot_be_looked_at_is_called_neither_a_success_nor_a_failure(idle):
    platform = Platform()
    connect(lambda request: (403, {"detail": "Nothing doing."}) if "/files/" in request.url else platform(request))
    with pytest.raises(rescale.RescaleError, match=f"{JOB_ID}.*403") as error:
        rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    assert not isinstance(error.value, rescale.JobFailed)


def test_a_log_that_cannot_be_had_is_no_licence_to_use_the_archive_of_a_job_that_may_have_failed(idle):
    platform = Platform([("Executing", None), ("Completed", None)], made_here=False, files={
        "arChiv": ("rescale.tar.gz", b"1"), "loGloG": (LOG, f"{STAMP}Exited with code 3\n".encode())})
    connect(lambda request: (503, b"") if "/contents/" in request.url and idle.now < math.inf else platform(request))
    with pytest.raises(rescale.RescaleError):
        rescale.file_previous_job(PLATFORM, TOKEN, JOB_ID)


def test_a_job_that_was_ended_while_its_command_packed_by_itself_has_no_result(access, clock, ended_job):
    job_id = ended_job({"rescale.tar.gz": b"cut off", ".rescale_pack/start": b"start\n", "process_output.log": b"x\n"})
    with pytest.raises(rescale.JobFailed):
        rescale.job_monitor(*access, job_id)
    with pytest.raises(rescale.RescaleError):
        rescale.file_previous_job(*access, job_id)
