"""6. job_monitor: what it shows while a job runs, when it ends, and the verdict, which job_monitor and previous share.

| promise (design, parts 4 and 6, proofs 1 to 3) | test |
|---|---|
| a line per change of status, every 5 s; the 20 last lines of the log every 15 s of execution | change, every_5_s |
| ended by any ended status, in any order, of any date, in any case; a draft is told | ended, draft |
| each line of the log once, no echo of the command | lines |
| a log that cannot be read is waited for; the one in shared/ is looked for, too | look, web_page |
| a job of ours has succeeded if its archive is all it left; else the platform's word decides | VERDICTS, HISTORIES |
| inputs are no outputs; a list that grows is waited for; half an archive is no success | INPUTS, LAGS, half |
| a failure tells reason, code, last lines, and what they mean where that is sure | failure, stopped, LINES |
| outages (test_faults.py) and answers that are not the platform's end nothing, its refusals do | the last ones |
"""

import contextlib
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rescale_rest_api as rescale
from in_memory import HTML, JOB_ID, PLATFORM, TOKEN, Platform, a_list, connect, history
from rescale_simulator import Fault

LOG = "process_output.log"
ARCHIVE = {"rescale.tar.gz": b"the archive"}
GOOD, BAD, ODD = "Completed successfully", "A run failed", "Ended"
STAMP = "[2026-01-02T03:04:05Z]: "
# How the platform shows the command of a job of ours, and a line of it that would mean something else in a log.
ECHO = f"Launching {rescale.OURS}\nrescale_rest_api: still being written\n(exit $rescale_status), Working dir: /work\n"


@pytest.fixture
def watch(access, clock, capsys):
    """Monitor a job to its end; return the printed lines, ID in the place of its id, and the error, if it failed."""

    def monitor(job_id):
        capsys.readouterr()
        error = None
        try:
            rescale.job_monitor(*access, job_id)
        except rescale.JobFailed as failed:
            error = failed
        assert not error or error.job_id == job_id
        return capsys.readouterr().out.replace(job_id, "ID").splitlines(), error

    return monitor


@pytest.fixture
def executing(sim, clock, ended):
    """Make a job whose log grows by a text whenever it is looked at; behind the last one it has ended."""

    def make(*steps, log=LOG):
        job, left = sim.jobs[ended(ARCHIVE, "Pending Executing Completed")], list(steps)
        job.date_completed, last, path = None, job.statuses.pop(), job.work / log
        path.parent.mkdir(exist_ok=True)
        path.touch()

        def go_on(record, moment):
            if "/tail/" in record.path and moment == "before":
                path.write_text(path.read_text() + (left.pop(0) if left else ""))
                job.statuses[2:] = [] if left else [last]

        sim.on_request = go_on
        return job

    return make


@pytest.fixture
def ended(sim, ended_job):
    """Make a job that has ended: its outputs, its history as `Status Status:Its_reason`, and who made it."""

    def make(files, statuses="Executing Completed:Completed_successfully", made_by="job_setup"):
        entries = [entry.replace("_", " ").partition(":") for entry in statuses.split()]
        job = sim.jobs[ended_job(files, *[(status, reason or None) for status, _, reason in entries])]
        job.ended = 1.0
        if made_by != "job_setup":
            job.data["jobanalyses"][0]["command"] = "abaqus job=rod interactive"
        return job.id

    return make


@pytest.fixture
def verdict(access, sim, watch, monkeypatch):
    """Whether a job succeeded, as job_monitor and file_previous_job say it."""

    def judge(job_id, patience=300):
        monkeypatch.setattr(rescale, "FILES_PATIENCE", patience)
        good, taken = watch(job_id)[1] is None, []
        with contextlib.suppress(rescale.RescaleError):
            taken = rescale.file_previous_job(*access, job_id)
        has_archive = "rescale.tar.gz" in [sim.files[file_id].name for file_id in sim.jobs[job_id].files]
        assert bool(taken) == (good and has_archive), "what is a success for the one is none for the other"
        return "+" if good else "-"

    return judge


def text(first, last):
    return "".join(f"iteration {number}\n" for number in range(first, last + 1))


def log_part(lines):
    """What was printed between `Executing` and `Completed` but `Waiting.....`, where it came once."""
    assert lines.count("Waiting.....") <= 1
    lines = lines[lines.index("Job ID : Executing") + 1 : lines.index("Job ID : Completed")]
    return [line for line in lines if line != "Waiting....."]


@pytest.mark.parametrize("quirks", [
    {}, {"newest_first": False}, {"newest_first": False, "date_style": "Z"},
    {"date_style": "partly"}, {"page_size_cap": 1, "newest_first": False}, {"empty_last_page": True},
    {"page_size_cap": 2, "next_drops_query": True, "next_without_slash": True}], ids=str)
def test_each_change_of_status_is_shown_once_and_in_order_however_they_are_listed(quirks, sim, clock, watch, ended):
    vars(sim).update(quirks)
    job_id = ended(ARCHIVE, "Pending Queued Queued Executing Queued Executing Executing Completed")
    assert [line.split()[-1] for line in watch(job_id)[0]] == [
        "Pending", "Queued", "Executing", "Queued", "Executing", "Completed"]
    assert clock.now < 10  # seconds; there is nothing to wait for


HAPPY = ["Pending", "Queued", "Started", "Validated", "Executing"]
DATES = ["", None, "2026-01-02T03:04:05Z", "2026-13-45T99:99:99Z", "2099-01-02T03:04:05.6+09:00"]


@pytest.mark.parametrize("status", [
    "Completed", "COMPLETED", "Failed", "Stopped", "FORCE_STOPPED", "Force Stopped", "Terminated", "Cancelled",
    "canceled", " Error ", "Archived"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(6)), dates=st.lists(st.sampled_from(DATES), min_size=6, max_size=6))
def test_a_job_has_ended_when_its_history_says_so_in_any_order_of_any_date(status, order, dates, sim, watch, ended):
    job = sim.jobs[ended(ARCHIVE, " ".join([*HAPPY, "Completed"]))]
    job.statuses[-1]["status"] = status
    job.statuses[:] = [{**job.statuses[index], "statusDate": date} for index, date in zip(order, dates)]
    lines, error = watch(job.id)
    assert sorted(lines) == sorted(f"Job ID : {one}" for one in [*HAPPY, status.strip()])
    assert not error


def test_the_status_is_asked_every_5_s_and_20_lines_of_the_log_every_15_s_of_execution(clock, sim, executing, watch):
    job = executing(text(1, 3), text(4, 4), "", text(5, 6))
    late, go_on, looks = job.statuses.pop(), sim.on_request, {"statuses": [], "tail": []}

    def look(record, moment):
        kind = "tail" if "/tail/" in record.path else record.path.split("/")[-2]
        if kind in looks and moment == "before":
            looks[kind].append(clock.now)
            assert record.query.get("lines") == ("20" if kind == "tail" else None)
        if len(looks["statuses"]) == 5 and len(job.statuses) == 1:
            job.statuses.append(late)
        go_on(record, moment)

    sim.on_request = look
    watch(job.id)
    assert looks["statuses"] == [0.0, *(5.0 * number for number in range(len(looks["statuses"]) - 1))]
    assert looks["tail"] == [15.0, 30.0, 45.0, 60.0]


def test_a_draft_is_told_after_a_minute_a_late_first_status_waited_for(access, clock, sim, set_up, ended, watch):
    draft, late = set_up(), sim.jobs[ended(ARCHIVE)]
    with pytest.raises(rescale.RescaleError, match=f"{draft}.*job_submit") as failed:
        rescale.job_monitor(*access, draft)
    assert not isinstance(failed.value, rescale.JobFailed)
    assert 60 <= clock.now <= 70
    came, late.statuses, began = late.statuses, [], clock.now
    sim.on_request = lambda *_: setattr(late, "statuses", came if clock.now - began >= 50 else [])
    assert watch(late.id)[0][-1] == "Job ID : Completed"


@pytest.mark.parametrize(("steps", "lines"), [
    (["", text(1, 7), "", ""], text(1, 7)), ([text(1, 25), "", text(26, 46)], text(6, 25) + text(27, 46)),
    (["a\na\na\n", "a\nb\n", "b\n", "\n\n", "\n", "a\na\n"], "a\na\na\na\nb\nb\n\n\n\na\na\n"),
    (["one\ntw", "o\nthree\n"], "one\ntw\ntwo\nthree\n"),
    (["(exit $status)\n", "# (exit $rescale_status)\n"], "(exit $status)\n# (exit $rescale_status)\n"),
    ([ECHO[:80], f"{ECHO[80:]}hello\n"], "hello\n"),
    (["\x1b[2Jwiped\x07 out\n", "압력 1.0e5\ttab\n"], "\ufffd[2Jwiped\ufffd out\n압력 1.0e5\ttab\n"),
], ids=["empty at first", "some missed", "equal", "half written", "like our own", "echo", "control"])
def test_lines_are_shown_once_and_in_order(steps, lines, executing, watch):
    assert log_part(watch(executing(*steps).id)[0]) == lines.splitlines()


@pytest.mark.parametrize("fault", ["500", "html", "truncated", "reset_before", "throttled", "redirect"])
def test_a_look_at_the_log_that_fails_loses_no_line_and_waiting_is_shown_once(fault, sim, executing, watch):
    """Also in shared."""
    sim.faults.append(Fault(fault, path="tail", skip=1, times=2))
    lines = watch(executing(*(text(number, number) for number in range(1, 7)), log=f"shared/{LOG}").id)[0]
    assert (lines.count("Waiting....."), log_part(lines)) == (1, text(1, 6).splitlines())


def test_of_a_line_that_is_cut_nothing_is_shown_for_it_may_be_half_a_key(sim, ended, watch):
    log = f"key {sim.token}\n".encode() + b"y" * (rescale.LOG_TAIL - 20)
    error = watch(ended({LOG: log, "rescale_failed.tar.gz": b"x"}, "Executing Completed:A_run_failed"))[1]
    assert ("yyy" in str(error), sim.token[-9:] in str(error)) == (True, False)


CLOSINGS = {  # what the log ends with; before: a phrase that only a program has printed
    "none": None,
    "0": f"{STAMP}Exited with code 0\n{STAMP}\n",
    "3": f"{STAMP}one\n{STAMP}Exited with code 3\n{STAMP}\n",
    "0 before": f"{STAMP}mesher.sh: Exited with code 0\n{STAMP}Exited with code 0\n{STAMP}iteration 7\n",
    "3 before": f"{STAMP}Exited with code 3\n{STAMP}Exited with code 3, once more\n{STAMP}mesher: Exited with code 3\n",
}
VERDICTS = [  # made by, what is left beside the log, reason, + for a success for each of CLOSINGS, in their order
    *[("job_setup", "rescale.tar.gz a.odb", *row) for row in (
        (GOOD, "++-++"), (None, "-+---"), (ODD, "-----"), (BAD, "-----"))],
    *[("job_setup", left, reason, "-----") for left in ("rescale_failed.tar.gz", "a.odb") for reason in (GOOD, None)],
    *[("web page", left, *row) for left in ("rescale.tar.gz", "a.odb") for row in (
        (GOOD, "++-++"), ("completed SUCCESSFULLY", "++-++"), (None, "-+---"), (ODD, "-----"), (BAD, "-----"))],
]


@pytest.mark.parametrize(("made_by", "left", "reason", "verdicts"), VERDICTS)
def test_the_platforms_word_decides_where_a_job_packed_by_itself_or_is_not_ours(
    made_by, left, reason, verdicts, ended, verdict
):
    found, statuses = "", f"Executing Completed:{(reason or '').replace(' ', '_')}"
    for log in CLOSINGS.values():
        files = {**dict.fromkeys(left.split(), b"1"), **({LOG: log.encode()} if log else {})}
        found += verdict(ended(files, statuses, made_by), patience=1)
    assert dict(zip(CLOSINGS, found)) == dict(zip(CLOSINGS, verdicts))


HISTORIES = {  # and the verdict on a job of the web page; one of ours has its archive as the proof
    "Executing Completed:A_run_failed": "-", "Executing Stopping:User_Terminated Stopped": "-",
    "Executing Stopping:Capacity Queued Executing Completed:Completed_successfully": "+",
    "Executing Stopping:A_run_failed Completed": "-", "Executing Completed:Walltime_limit_reached": "-",
    "Queued Completed:Out_of_budget": "-", "Failed:Completed_successfully Executing": "+", "Archived": "-",
}


@pytest.mark.parametrize("place", ["", "shared/"], ids=["in work", "in shared"])
@pytest.mark.parametrize("statuses", HISTORIES)
def test_the_archive_alone_proves_the_success_of_a_job_of_ours_whatever_the_statuses_say(
    statuses, place, ended, verdict
):
    assert verdict(ended({f"{place}rescale.tar.gz": b"1"}, statuses)) == "+"
    assert verdict(ended({f"{place}rescale.tar.gz": b"1"}, statuses, "web page"), patience=1) == HISTORIES[statuses]
    assert verdict(ended({"rescale_failed.tar.gz": b"1", LOG: b"x\n"}, statuses)) == "-"


INPUTS = {  # given, left, sums in the list, the verdict where the platform's word is bad
    "by its id": ("rescale.tar.gz", {}, "both", "-"),
    "synced back": ("rescale.tar.gz", {"rescale.tar.gz": b"given"}, "both", "-"),
    "synced back, listed with another sum": ("rescale.tar.gz", {"rescale.tar.gz": b"given"}, "md5", "-"),
    "synced back, listed without sums": ("rescale.tar.gz", {"rescale.tar.gz": b"given"}, "none", "-"),
    "beside a result": ("rescale.tar.gz", {"rescale.tar.gz": b"taken"}, "both", "+"),
    "of another name": ("a.inp", {"rescale.tar.gz": b"taken"}, "both", "+"),
    "of another name, left": ("a.inp", {"rescale.tar.gz": b"taken", "a.inp": b"given"}, "both", "-"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_an_input_is_no_output_and_only_an_archive_is_known_by_its_sum(case, access, sim, ended, verdict, tmp_path):
    name, left, sums, expected = INPUTS[case]
    (tmp_path / name).write_bytes(b"given")
    inputs = rescale.upload_local_files(*access, tmp_path / name, decompress=False)
    job = sim.jobs[ended(left, "Executing Completed:A_run_failed")]
    job.data["jobanalyses"][0]["inputFiles"] = inputs
    sim.lists_inputs = "all" if "left" not in case else "left"
    sim.on_request = lambda record, _: setattr(sim, "checksums", sums if "/files/" in record.path else "both")
    assert verdict(job.id, patience=10) == expected


LAGS = [{"listing_lag": 4}, {"upload_lag": 4}, {"size_lag": 4}, {"listing_lag": 2, "size_lag": 4}, {"listing_lag": 50}]


@pytest.mark.parametrize("made_by", ["job_setup", "web page"])
@pytest.mark.parametrize(("lag", "faults"), [*((lag, 0) for lag in LAGS), ({"listing_lag": 2}, 30)], ids=str)
def test_a_list_that_still_grows_is_waited_for(lag, faults, made_by, clock, sim, ended, verdict):
    vars(sim).update(lag)
    sim.faults.append(Fault("503", path="/files/", times=faults))  # of up to a minute
    left = {"rescale.tar.gz": b"1"} if made_by == "job_setup" else {"a": b"", LOG: CLOSINGS["0"].encode(), "z": b""}
    assert verdict(ended(left, "Executing Completed", made_by)) == "+"
    assert 0 < clock.now <= 300 + 60 * faults


@pytest.mark.parametrize(("name", "seconds"), [("a.odb", 300), (LOG, 300), ("rescale_failed.tar.gz", 1)])
def test_a_list_without_any_archive_counts_as_it_is_after_five_minutes(name, seconds, clock, ended, watch):
    assert watch(ended({name: b"1"}))[1]
    assert seconds <= clock.now <= seconds + 10


def test_half_an_archive_of_a_job_killed_at_packing_by_itself_is_no_success_though_the_log_is_listed_late(
    sim, ended, verdict
):
    job_id = ended({"rescale.tar.gz": b"cut", ".rescale/command": b"", LOG: b"x\n"}, "Executing Completed:A_run_failed")
    sim.jobs[job_id].files.sort(key=lambda file_id: sim.files[file_id].name != "rescale.tar.gz")
    sim.listing_lag = 8
    assert verdict(job_id) == "-"


def test_a_failure_is_told_with_reason_code_last_lines_and_what_to_do_next(sim, ended, watch):
    """Also between the processes of a pool, which pickle their errors."""
    log = "".join(f"{STAMP}line {number}\n" for number in range(100_000)) + CLOSINGS["3"]
    job_id = ended({"rescale_failed.tar.gz": b"1", LOG: log.encode()}, "Executing Completed:A_run_failed")
    error = pickle.loads(pickle.dumps(watch(job_id)[1]))
    assert (error.job_id, error.reason) == (job_id, "A run failed")
    assert [line.rpartition("]: ")[2] for line in error.log_lines] == [
        *(f"line {number}" for number in range(99_963, 100_000)), "one", "Exited with code 3", ""]
    for words in ("A run failed", "exit code 3", f"{sim.url}/jobs/{job_id}/runs/1/results/", "line 99963",
                  f"rescale_rest_api.py download {job_id}"):
        assert words in str(error)
    (asked,) = [one.headers["Range"] for one in sim.requests if one.path.endswith("/contents/")]
    assert asked == f"bytes={len(log) - rescale.LOG_TAIL}-{len(log) - 1}"  # of a huge log only the end


@pytest.mark.parametrize(("statuses", "stopped"), [
    ("Executing Stopping:User_Terminated Completed:User_Terminated", True), ("Executing Stopped", True),
    ("Executing Force_Stopped", True), ("Queued Canceled", True), ("Executing Completed:A_run_failed", False),
    ("Executing Stopping:A_run_failed Failed", False), ("Executing Completed:Walltime_limit_reached", False)])
def test_a_stopped_job_is_called_stopped_and_no_other(statuses, stopped, ended, watch):
    files = {"rescale_failed.tar.gz": b"1", LOG: f"{STAMP}Exited with code 143\n".encode()}
    error = watch(ended(files, statuses))[1]
    assert ("stopped" in str(error).splitlines()[0].partition(";")[0]) is stopped


LINES = {  # a word of what is told to do: what stands in logs that mean it
    "(LF)": ["/bin/sh: ./run.sh: /bin/bash^M: bad interpreter: No such file or directory",
             "./run.sh: cannot execute: required file not found", "run.sh: line 2: $'\\r': command not found"],
    "shared library": ["./ccx: error while loading shared libraries: libgfortran.so.5: cannot open shared object file: "
                       "No such file or directory"],
    "license_features": ['Licensed number of users already reached. (-4,132:10054 "")',
                         "Abaqus Error: All licenses for abaqus are in use.", "Not enough tokens for this analysis"],
    "license_info": ['FlexNet Licensing error:-15,570. System Error: 115 "Operation now in progress"',
                     "Cannot connect to license server system.", "Failed to check out a license for solver",
                     "ANSYS LICENSE MANAGER ERROR: license server machine is down"],
    "walltime": ["slurmstepd: error: *** JOB 42 ON node1 CANCELLED AT 2026-01-02T03:04:05 DUE TO TIME LIMIT ***",
                 "PBS: job killed: walltime 3617 exceeded limit 3600"],
    "storage": ["tar: rescale.tar.gz: Cannot write: No space left on device", "forrtl: Disk quota exceeded"],
    "memory per core": ["slurmstepd: error: Detected 1 oom-kill event(s) in step 42.0", "mmap: Cannot allocate memory",
                        "terminate called after throwing an instance of 'std::bad_alloc'", "MemoryError"],
    "ask_delete": ["Abaqus Error: Detected lock file rod.lck. Please confirm that no other applications are using it",
                   "Old job files exist. Overwrite?"],
    "MPI": ["There are not enough slots available in the system"], "chmod": ["sh: 3: ./run.sh: Permission denied"],
    "input_path": ["cat: beam.inp: No such file or directory", "Input file beam.inp not found"],
    "": [  # of jobs that had another trouble
        "Abaqus/Standard checked out 5 tokens from Flexnet server lic.example.com.", "rod.lck does not exist",
        "Abaqus License Manager checked out the following licenses:", "<95 out of 100 licenses remain available>.",
        "Used walltime 00:00:12 of 01:00:00", "Requested walltime: 24:00:00", "Total wall time: 0:00:03",
        "MEMORY ESTIMATE: minimum memory required 38 MB, memory to minimize I/O 111 MB", "Removed lock file rod.lck",
        "rm: cannot remove 'rod.lck': No such file or directory", "THE ANALYSIS HAS NOT BEEN COMPLETED",
        "ls: cannot access '*.odb': No such file or directory", "residual 1.2e-3: not converged", "64 of 64 slots"],
}


@pytest.mark.parametrize(("word", "line"), [(word, line) for word, lines in LINES.items() for line in lines])
def test_the_end_of_the_log_is_explained_in_one_sentence_where_that_is_sure(word, line, ended, watch):
    log = f"{ECHO}{STAMP}step 1\n{STAMP}{line}\n{STAMP}Exited with code 1\n".encode()
    error = watch(ended({"rescale_failed.tar.gz": b"1", LOG: log}, "Executing Completed:A_run_failed"))[1]
    assert error.log_lines[0] == f"{STAMP}step 1"
    told = [sentence for _, sentence in rescale.FAILURES if sentence in str(error)]
    assert [word in sentence for sentence in told] == [True] * bool(word)
    assert str(error).count(line[:150]) == 1 + len(told)  # in the log, and behind the sentence


def test_each_meaning_has_a_line_and_a_reason_has_one_too(ended, watch):
    words = [[word for word in LINES if word and word in sentence] for _, sentence in rescale.FAILURES]
    assert words == [[word] for word in LINES if word]
    job_id = ended({"rescale_failed.tar.gz": b"1"}, "Executing Completed:Walltime_limit_reached")
    assert "raise walltime" in str(watch(job_id)[1])


ODD_ANSWERS = {
    **{f"HTML with {status}": (status, b"<html>Sign in</html>", HTML) for status in (302, 400, 401, 403, 404, 405)},
    "404 with nothing": (404, b"", {"Content-Type": "text/plain"}), "no list": (200, {"detail": "maintenance"}),
    "entries without a status": (200, a_list({"statusDate": None}, {"status": None}, {"status": 5})),
    "a list of words": (200, a_list("Queued")), "an empty history": (200, a_list()),
    "an old history": (200, history(("Pending", None))),
    "told to come back in weeks": (429, {"detail": "throttled"}, {"Retry-After": "2000000"}),
}


@pytest.mark.parametrize("case", ODD_ANSWERS)
def test_a_monitor_is_not_ended_by(case, clock, capsys):
    platform, asked = Platform(), []

    def answer(request):
        asked.append(request)
        if "/tail/" in request.url:
            return 200, {"lines": None}
        if len(asked) == 1:
            return 200, history(("Pending", None), ("Executing", None))
        return ODD_ANSWERS[case] if len(asked) < 6 else platform(request)

    connect(answer)
    rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[-1] for line in lines if "Job" in line} == {"Completed", "Executing", "Pending", "Queued"}
    assert clock.now < 5 * 3600


def test_the_platforms_own_refusal_ends_a_monitor_and_is_no_failure_of_the_job(clock):
    """Also one that comes at last; test_faults.py has those of the first request."""
    platform = Platform()
    connect(lambda request: (403, {"detail": "Nothing doing."}) if "/files/" in request.url else platform(request))
    with pytest.raises(rescale.RescaleError, match="403.*Nothing doing") as error:
        rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    assert (error.type, clock.now < 30) == (rescale.RescaleError, True)


@pytest.mark.parametrize(("outage", "reason", "code", "told"), [
    (300, None, 0, None), (300, GOOD, 3, rescale.JobFailed), (10**9, None, 0, rescale.RescaleError),
    (10**9, GOOD, 3, rescale.RescaleError), (10**9, BAD, 3, rescale.JobFailed)])
def test_what_only_the_log_tells_is_told_after_an_outage_or_not_at_all(outage, reason, code, told, clock):
    log = f"{STAMP}Exited with code {code}\n".encode()
    platform = Platform([("Executing", None), ("Completed", reason)], {"lo": (LOG, log)}, made_here=reason == BAD)
    connect(lambda request: (503, b"") if "/contents/" in request.url and clock.now < outage else platform(request))
    with pytest.raises(told) if told else contextlib.nullcontext() as error:
        rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    assert not told or error.type is told
    assert 300 <= clock.now <= 1800
