"""6. job_monitor: what it shows while a job runs, when it ends, and which jobs it takes for a success."""

from __future__ import annotations

import re

import pytest

import rescale_rest_api as rescale
from rescale_simulator import Fault

LOG = "process_output.log"
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
        assert isinstance(failed.value, rescale.RescaleError)
        return failed.value

    return monitor


@pytest.fixture
def executing(sim, clock, set_up):
    """Make a job that executes and goes one step on whenever its log is looked at, and then ends.

    A step is a text that is added to the log, or something to do.
    """

    def make(*steps, log=LOG, reason="Completed successfully"):
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
                job.date_completed = sim.now()
                sim.add_status(job, "Completed", reason, last=True)
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


def text(first, last):
    """Lines of a log, with numbers to tell them apart."""
    return "".join(f"iteration {number}\n" for number in range(first, last + 1))


def log_part(lines):
    """What was printed between `Executing` and `Completed`."""
    return lines[lines.index("Job ID : Executing") + 1 : lines.index("Job ID : Completed")]


# Statuses


def test_every_status_is_shown_once_as_the_guide_prints_it(sim, shown, run_job):
    assert shown(run_job()) == [f"Job ID : {status}" for status in HAPPY]


def test_a_job_is_followed_from_its_submission_to_its_end(access, clock, sim, set_up, shown):
    sim.speed = 0.02
    job_id = set_up(command="echo hello; sleep 0.2; echo bye; sleep 0.2\n")
    rescale.job_submit(*access, "job", job_id)
    lines = shown(job_id)
    assert [line for line in lines if line.startswith("Job ID : ")] == [f"Job ID : {status}" for status in HAPPY]
    log = [re.sub(r"^\[.*?\]: ", "", line) for line in log_part(lines)]
    assert [line for line in log if line in ("hello", "bye")] == ["hello", "bye"]


@pytest.mark.parametrize(
    "quirks",
    [
        {"newest_first": True, "date_style": "Z"}, {"newest_first": False, "date_style": "offset"},
        {"page_size_cap": 1, "newest_first": False}, {"page_size_cap": 2, "next_without_slash": True},
        {"page_size_cap": 2, "next_drops_query": True},
    ],
    ids=str,
)
def test_the_statuses_are_shown_in_their_order_however_the_platform_lists_them(quirks, sim, shown, run_job):
    job_id = run_job()
    for name, value in quirks.items():
        setattr(sim, name, value)
    assert shown(job_id) == [f"Job ID : {status}" for status in HAPPY]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    "dates",
    [
        pytest.param(
            ["2026-01-02T03:04:05Z", "2026-01-02T12:04:05.5+09:00", "2026-01-02T03:04:06.000001+00:00",
             "2026-01-02T03:04:07.123456789Z", "2026-01-01T23:04:08.1-04:00", "2026-01-02T03:04:09+00:00"],
            id="in all styles",
        ),
        pytest.param(
            ["2026-01-02T03:04:05Z", *["2026-01-02T03:04:06Z"] * 2, *["2026-01-02T03:04:07Z"] * 3], id="to the second"
        ),
    ],
)
def test_the_dates_decide_about_the_order(dates, newest_first, sim, shown, run_job):
    job_id = run_job()
    sim.newest_first = newest_first
    for entry, date in zip(sim.jobs[job_id].statuses, dates):
        entry["statusDate"] = date
    assert shown(job_id) == [f"Job ID : {status}" for status in HAPPY]


@pytest.mark.parametrize("listed", [[5, 0, 1, 2, 3, 4], [1, 0, 2, 4, 3, 5], [0, 5, 4, 3, 2, 1]], ids=str)
def test_the_dates_decide_even_if_the_list_has_no_order(listed, sim, shown, run_job):
    job_id = run_job()
    statuses = sim.jobs[job_id].statuses
    for second, entry in enumerate(statuses):
        entry["statusDate"] = f"2026-01-02T03:04:0{second}Z"
    statuses[:] = [statuses[index] for index in listed]
    assert shown(job_id) == [f"Job ID : {status}" for status in HAPPY]


def test_a_whole_job_within_a_second_is_listed_newest_first(sim, shown, run_job):
    job_id = run_job()
    sim.newest_first = True
    for entry in sim.jobs[job_id].statuses:
        entry["statusDate"] = "2026-01-02T03:04:05Z"
    assert shown(job_id) == [f"Job ID : {status}" for status in HAPPY]


@pytest.mark.parametrize("date", [None, "", "soon", 5, "2026-13-45T99:99:99Z"])
def test_without_dates_the_documented_order_counts(date, sim, shown, run_job):
    job_id = run_job()
    sim.date_style = "Z"
    for entry in sim.jobs[job_id].statuses:
        entry["statusDate"] = date
    assert shown(job_id) == [f"Job ID : {status}" for status in HAPPY]


def test_statuses_that_come_and_go_between_two_looks_are_shown_too(clock, sim, set_up, shown):
    job = sim.jobs[set_up()]
    sim.add_status(job, "Pending")
    looks = {
        2: [("Queued", None), ("Started", None)],
        4: [("Queued", None), ("Started", None), ("Validated", None), ("Executing", None), ("Queued", None)],
        5: [("Executing", None), ("Completed", "Completed successfully")],
    }
    asked = []

    def go_on(record, moment):
        if record.path.endswith("/statuses/") and moment == "before":
            asked.append(record)
            for status, reason in looks.get(len(asked), ()):
                sim.add_status(job, status, reason, last=status == "Completed")

    sim.on_request = go_on
    assert shown(job.id) == [
        f"Job ID : {status}" for status in [
            "Pending", "Queued", "Started", "Queued", "Started", "Validated", "Executing", "Queued", "Executing",
            "Completed",
        ]
    ]
    assert len(asked) == 5


def test_a_status_that_is_repeated_is_no_change(shown, ended_job):
    history = [(status, None) for status in ("Pending", "Queued", "Queued", "Executing", "Executing")]
    lines = shown(ended_job({"rescale.tar.gz": b""}, *history, ("Completed", "Completed successfully")))
    assert lines == [f"Job ID : {status}" for status in ("Pending", "Queued", "Executing", "Completed")]


def test_the_status_is_asked_every_5_s_and_the_log_every_15_s_of_execution(access, clock, sim, set_up, executing):
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


# The log


@pytest.mark.parametrize(
    "growth",
    [
        [3, 4, 5], [1, 0, 0, 1], [19, 19, 19], [5, 15, 19, 0, 2], [25, 3], [5, 21, 4], [5, 40, 0, 40, 19], [100],
        [0, 7],
    ],
    ids=str,
)
def test_each_line_is_shown_once_in_order_with_dots_where_some_were_missed(growth, executing, shown):
    steps, expected, total = [], [], 0
    for number in growth:
        steps.append(text(total + 1, total + number))
        seen = min(number, 20)
        expected += ["..."] * (number > 20)
        expected += text(total + number - seen + 1, total + number).splitlines()
        total += number
    assert log_part(shown(executing(*steps))) == expected


def test_equal_lines_are_told_apart_by_their_neighbours(executing, shown):
    steps = ["a\na\na\n", "a\nb\n", "b\n", "\n\n", "\n", "a\na\n"]
    assert log_part(shown(executing(*steps))) == "".join(steps).splitlines()


def test_missed_lines_are_told_after_an_empty_one_too(executing, shown):
    lines = log_part(shown(executing("one\n\n", text(1, 30))))
    assert lines == ["one", "", "...", *text(11, 30).splitlines()]


def test_a_line_that_was_half_written_is_shown_whole_afterwards(executing, shown):
    assert log_part(shown(executing("one\ntw", "o\nthree\n"))) == ["one", "tw", "two", "three"]


def test_what_would_act_on_the_terminal_is_not_passed_on(executing, shown):
    lines = log_part(shown(executing("\x1b[2Jwiped\x07 out\n", "압력 1.0e5\ttab\n")))
    assert lines[1] == "압력 1.0e5\ttab"
    assert "wiped" in lines[0]
    assert not {"\x1b", "\x07"} & set(lines[0])


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


def test_a_log_that_is_still_empty_is_no_trouble(sim, executing, shown):
    sim.tail_off_run = "empty"
    lines = log_part(shown(executing(lambda: None, "", text(1, 2))))
    assert [line for line in lines if line != "Waiting....."] == text(1, 2).splitlines()
    assert lines.count("Waiting.....") <= 1


@pytest.mark.parametrize("fault", ["500", "html", "truncated", "reset_before", "reset_midway", "throttled", "redirect"])
def test_any_answer_that_is_not_lines_means_nothing_yet(fault, sim, executing, shown):
    sim.faults.append(Fault(fault, path="tail", times=3))
    lines = shown(executing(text(1, 1), text(2, 2), text(3, 3), text(4, 4), text(5, 5)))
    assert log_part(lines) == ["Waiting.....", *text(1, 5).splitlines()]


def test_an_unreadable_look_in_between_repeats_and_loses_nothing(sim, executing, shown):
    sim.faults.append(Fault("503", path="tail", skip=1, times=2))
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
    assert len(quiet) == 3
    assert [lines.index(line) for line in quiet] == [1, 2, 4]
    for line, executed, silent in zip(quiet, ["30 min", "1 h 0", "1 h 5"], ["30 min", "1 h 0", "30 min"]):
        assert re.search(rf"execut.* {executed}.*\b{silent}", line), line


def test_a_busy_log_is_not_called_quiet(clock, executing, shown):
    def wait():
        clock.now += 1200

    steps = [step for number in range(1, 6) for step in (text(number, number), wait)]
    assert log_part(shown(executing(*steps))) == text(1, 5).splitlines()


# Failures


def raw(number):
    return "".join(f"echo line {one}\n" for one in range(1, number + 1))


def test_a_failed_job_is_told_with_reason_last_lines_and_where_to_look(sim, run_job, failure):
    job_id = run_job(f"{raw(60)}exit 3\n")
    error = failure(job_id)
    words = str(error)
    assert error.reason == "A run failed"
    assert "A run failed" in words
    assert "exit code 3" in words
    log = [re.sub(r"^\s*\[.*?\]: ?", "", line) for line in words.splitlines() if re.match(r"\s*\[\d{4}-", line)]
    assert len(log) == 40
    assert [line for line in log if line.startswith("line")] == [f"line {number}" for number in range(23, 61)]
    assert "Exited with code 3" in log
    assert [line.strip() for line in error.log_lines] == [
        line.strip() for line in words.splitlines() if re.match(r"\s*\[\d{4}-", line)
    ]
    assert f"{sim.url}/jobs/{job_id}/runs/1/results/" in words
    assert "download" in words


@pytest.mark.parametrize(
    ("quirks", "command", "reason"),
    [
        ({}, "exit 3\n", "A run failed"),
        ({"stopping_entry": False}, "exit 3\n", "A run failed"),
        ({"failed_reason": None}, "exit 3\n", "A run failed"),
        ({"failed_reason": "Completed successfully"}, "exit 3\n", "A run failed"),
        ({"stopping_entry": False, "failed_reason": "Bad day"}, "exit 3\n", "Bad day"),
        ({"stopping_entry": False, "failed_reason": None}, "exit 3\n", "exit code 3"),
        ({"stopping_entry": False, "failed_reason": ""}, "echo Exited with code 0; exit 3\n", "exit code 3"),
        ({"stopping_entry": False, "failed_reason": None}, "sh -c 'kill -9 $$'\n", "exit code 137"),
        ({"ignore_exit_codes": True}, "exit 3\n", "exit code 3"),
        ({"ignore_exit_codes": True, "listing_lag": 3}, "exit 3\n", "exit code 3"),
        ({"ignore_exit_codes": True, "upload_lag": 3}, "exit 3\n", "exit code 3"),
        ({"ignore_exit_codes": True, "success_reason": None}, "exit 3\n", "exit code 3"),
        ({"ignore_exit_codes": True, "shared_work": True}, "exit 3\n", "exit code 3"),
        ({"walltime_hour": 0.2}, "sleep 60\n", "Walltime limit reached"),
        ({"walltime_hour": 0.2, "walltime_syncs": False}, "sleep 60\n", "Walltime limit reached"),
        ({"walltime_hour": 0.2, "walltime_reason": None}, "sleep 60\n", "Stopping"),
        ({"fail": "job"}, "true\n", "A run failed"),
        ({"never_runs": "Exceeded max number of restarts"}, "true\n", "Exceeded max number of restarts"),
        ({"never_runs": "Could not allocate compute resources from the compute provider"}, "true\n",
         "Could not allocate compute resources from the compute provider"),
        ({"never_runs": "Out of budget"}, "true\n", "Out of budget"),
        *[({"last_status": status, "success_reason": None}, "true\n", status)
          for status in ("Failed", "Stopped", "Force Stopped", "Terminated", "Cancelled")],
        ({"last_status": "Failed", "success_reason": "Out of memory"}, "true\n", "Out of memory"),
    ],
    ids=lambda value: str(value).strip(),
)
def test_every_way_to_fail_is_told_with_its_reason(quirks, command, reason, clock, sim, run_job, failure):
    for name, value in quirks.items():
        setattr(sim, name, value)
    error = failure(run_job(command))
    assert reason in str(error)
    assert error.reason
    assert "/runs/1/results/" in str(error)


def test_a_job_that_never_got_resources_but_says_success_is_none(sim, run_job, failure):
    sim.never_runs = "Completed  Successfully"
    run = run_job()
    sim.jobs[run].statuses[-1]["statusReason"] = None
    assert failure(run).reason == "it never executed"


@pytest.mark.parametrize("reason", [
    "Exceeded max number of restarts", "Could not allocate compute resources from the compute provider",
])
def test_a_job_that_was_interrupted_and_never_came_back_has_failed_whatever_it_left(reason, ended_job, failure):
    history = [("Executing", None), ("Queued", None), ("Completed", reason)]
    assert failure(ended_job({"rescale.tar.gz": b""}, *history)).reason == reason


def test_an_archive_that_is_listed_before_the_log_is_no_success_yet(clock, sim, ended_job, failure):
    log = b"[2026-01-02T03:04:05Z]: Exited with code 3\n"
    job_id = ended_job({"rescale.tar.gz": b"", LOG: log}, ("Executing", None), ("Completed", None))
    sim.jobs[job_id].files.sort(key=lambda file_id: sim.files[file_id].relative_path == LOG)
    sim.listing_lag = 1
    assert "exit code 3" in str(failure(job_id))


def test_a_stopped_job_has_failed(access, sim, set_up, clock, failure):
    job_id = set_up(command="echo 1 > part; sleep 60\n")
    rescale.job_submit(*access, "job", job_id)

    def stop(record, moment):
        if "/tail/" in record.path and moment == "before" and (sim.jobs[job_id].work / "part").exists():
            sim.jobs[job_id]._run.stopped.set()

    sim.on_request = stop
    assert "User Terminated" in str(failure(job_id))


@pytest.mark.parametrize("stop", ["Stopping", "Force Stop"])
def test_a_stop_before_the_last_restart_does_not_count(stop, shown, ended_job):
    history = [("Executing", None), (stop, "Capacity reclaimed"), ("Queued", None), ("Executing", None)]
    lines = shown(ended_job({"rescale.tar.gz": b""}, *history, ("Completed", "Completed successfully")))
    assert lines[-1] == "Job ID : Completed"


@pytest.mark.parametrize("stop", ["Stopping", "Force Stop"])
def test_a_stop_after_the_last_start_counts_whatever_is_said_afterwards(stop, ended_job, failure):
    history = [("Executing", None), (stop, "Capacity reclaimed"), ("Completed", "Completed successfully")]
    assert failure(ended_job({"rescale.tar.gz": b""}, *history)).reason == "Capacity reclaimed"


@pytest.mark.parametrize("quirks", [{}, {"ignore_range": True}, {"contents_redirect": True}], ids=str)
def test_of_a_huge_log_only_the_end_is_fetched(quirks, sim, ended_job, failure):
    for name, value in quirks.items():
        setattr(sim, name, value)
    log = b"".join(b"[2026-01-02T03:04:05Z]: %09d \xff %s\n" % (number, b"x" * 100) for number in range(50_000))
    log += b"[2026-01-02T03:04:05Z]: Exited with code 9\n[2026-01-02T03:04:05Z]: \n"
    error = failure(ended_job({LOG: log}, ("Executing", None), ("Completed", None)))
    assert len(error.log_lines) == 40
    assert "000049999" in error.log_lines[-3]
    assert "000049961" not in str(error)
    assert "exit code 9" in str(error)
    for record in sim.requests + sim.storage_requests:
        if record.path.endswith("/contents/") or record in sim.storage_requests:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", record.headers["Range"]).groups()
            assert int(last) == len(log) - 1
            assert int(last) - int(first) < 1_000_000


@pytest.mark.parametrize(
    "files",
    [
        {}, {"result.odb": b"x"}, {LOG: b""}, {f"sub/{LOG}": b"Exited with code 0\n"},
        {"rescale.tar.gz": b"x", "result.odb": b"x"}, {"rescale.tar.gz": b"x", LOG: b""},
    ],
    ids=str,
)
def test_without_a_log_and_a_reason_nothing_is_taken_for_a_success(files, clock, ended_job, failure):
    error = failure(ended_job(files, ("Executing", None), ("Completed", None)))
    assert error.log_lines == []
    assert LOG in str(error)


def test_a_failure_is_told_even_if_its_log_cannot_be_fetched(clock, sim, run_job, failure):
    job_id = run_job("exit 3\n")
    sim.faults.append(Fault("500", path="contents", times=200))
    error = failure(job_id)
    assert error.reason == "A run failed"
    assert clock.now < 7200  # what has ended is not waited for without an end


# Successes that the platform does not confirm


@pytest.mark.parametrize(
    ("quirks", "command"),
    [
        ({"success_reason": None}, "true\n"),
        ({"success_reason": ""}, "true\n"),
        ({"success_reason": "Ended"}, "true\n"),
        ({"success_reason": " completed  SUCCESSFULLY "}, "true\n"),
        ({"success_reason": None}, "echo Exited with code 3\n"),
        ({"success_reason": None, "shared_work": True}, "echo Exited with code 3\n"),
        ({"success_reason": None, "listing_lag": 2, "shared_work": True}, "true\n"),
        ({"success_reason": None, "upload_lag": 2}, "true\n"),
        ({"lists_input_files": False}, "true\n"),
    ],
    ids=str,
)
def test_without_a_reason_what_is_left_behind_decides(quirks, command, clock, sim, run_job, shown):
    for name, value in quirks.items():
        setattr(sim, name, value)
    assert shown(run_job(command, {"rod.inp": b"x"}))[-1] == "Job ID : Completed"


def test_what_a_program_says_of_an_exit_code_within_a_line_is_not_the_jobs(clock, ended_job, shown):
    log = b"[2026-01-02T03:04:05Z]: the mesher Exited with code 3, once more with a finer mesh\n"
    assert shown(ended_job({"rescale.tar.gz": b"", LOG: log}))[-1].endswith(("Completed", "finer mesh"))


# The end of waiting


def test_a_draft_is_not_waited_for(access, clock, sim, set_up):
    job_id = set_up()
    with pytest.raises(rescale.RescaleError, match="never submitted") as failed:
        rescale.job_monitor(*access, job_id)
    assert job_id in str(failed.value)
    assert not isinstance(failed.value, rescale.JobFailed)
    assert 30 <= clock.now <= 300


def test_a_job_that_shows_its_first_status_late_is_waited_for(clock, sim, set_up, shown):
    job = sim.jobs[set_up()]
    history = [("Pending", None), ("Executing", None), ("Completed", "Completed successfully")]

    def go_on(record, moment):
        if clock.now >= 30 and history and moment == "before":
            status, reason = history.pop(0)
            sim.add_status(job, status, reason, last=not history)

    sim.on_request = go_on
    assert shown(job.id)[-1] == "Job ID : Completed"


def test_an_unknown_job_is_refused_at_once(access, sim):
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.job_monitor(*access, "nOnE")
    assert "404" in str(refused.value)
    assert "nOnE" in str(refused.value)
    assert len(sim.requests) == 1


def test_a_key_that_expires_meanwhile_ends_the_watch_with_a_hint(access, sim, executing):
    def expire():
        sim.token = "another"

    with pytest.raises(rescale.RescaleError, match="401") as refused:
        rescale.job_monitor(*access, executing(text(1, 1), expire, ""))
    assert not isinstance(refused.value, rescale.JobFailed)


@pytest.mark.parametrize(
    ("fault", "times", "minutes"),
    [("504", 130, 120), *[(fault, 15, 8) for fault in ("html", "truncated", "reset_before", "throttled", "redirect")]],
)
def test_an_outage_of_hours_is_sat_out(fault, times, minutes, clock, sim, executing, shown):
    sim.faults.append(Fault(fault, path="statuses", skip=2, times=times))
    lines = shown(executing(text(1, 1), text(2, 2), text(3, 3)))
    assert clock.now > 60 * minutes
    assert sim.faults[0].hits == times
    log = [line for line in log_part(lines) if line.startswith("iteration")]
    assert log == text(1, 3).splitlines()
    trouble = [line for line in log_part(lines) if not line.startswith("iteration")]
    assert len(trouble) == 2  # one line when it begins, one when it is over
    assert re.search(r"\d h \d\d min" if minutes > 60 else r"\d min", trouble[1])


def test_a_server_that_is_down_is_sat_out(clock, sim, executing, shown):
    sim.faults.append(Fault("refused", path="statuses", skip=2, seconds=0.4))
    lines = shown(executing(text(1, 1), text(2, 2)))
    assert [line for line in log_part(lines) if line.startswith("iteration")] == text(1, 2).splitlines()


# What an outcome is not read from


@pytest.mark.parametrize("reason", [None, "Walltime limit reached"])
def test_an_input_that_is_listed_is_no_sign_of_success(access, clock, sim, ended_job, reason):
    job_id = ended_job({"rescale.tar.gz": b"the input"}, ("Executing", None), ("Completed", reason))
    [file] = [sim.files[id_] for id_ in sim.jobs[job_id].files]
    file.type_id = rescale.INPUT_FILE
    with pytest.raises(rescale.JobFailed):
        rescale.job_monitor(*access, job_id)


def test_a_log_that_is_listed_late_is_waited_for_where_the_outcome_hangs_on_it(access, clock, sim, ended_job):
    log = b"[2026-01-01T00:00:00Z]: Exited with code 3\n"
    job_id = ended_job({"rescale.tar.gz": b"half", "process_output.log": log}, ("Executing", None), ("Completed", None))
    sim.jobs[job_id].files.sort(key=lambda id_: sim.files[id_].name != "rescale.tar.gz")
    sim.listing_lag = 4
    with pytest.raises(rescale.JobFailed, match="exit code 3"):
        rescale.job_monitor(*access, job_id)


def test_a_success_whose_files_cannot_be_looked_at_is_not_called_a_failure(access, sim, ended_job, monkeypatch):
    monkeypatch.setattr(rescale, "PATIENCE", 3)
    monkeypatch.setattr(rescale, "OUTCOME_TRIES", 2)
    job_id = ended_job({"rescale.tar.gz": b"1"})
    sim.faults.append(Fault("503", path="/files/", times=10**6))
    with pytest.raises(rescale.RescaleError, match="Completed successfully") as caught:
        rescale.job_monitor(*access, job_id)
    assert not isinstance(caught.value, rescale.JobFailed)
