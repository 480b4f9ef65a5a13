"""8. file_previous_job: which of a job's files is the input of the next one."""

from __future__ import annotations

import pytest

import rescale_rest_api as rescale
from conftest import paths_asked, wait_until
from rescale_simulator import Fault


def id_of(sim, path, job_id=None):
    files = sim.jobs[job_id].files if job_id else sim.files
    return next(id_ for id_ in files if sim.files[id_].relative_path == path and sim.files[id_].type_id != 1)


def test_the_result_of_a_job_is_taken_as_the_guide_prints_it_and_without_a_download(
    access, clock, sim, run_job, capsys
):
    job_id = run_job("echo 1 > a\n")
    sim.requests.clear()
    inputfiles_list = rescale.file_previous_job(*access, job_id)
    assert inputfiles_list == [{"id": id_of(sim, "rescale.tar.gz"), "decompress": True}]
    assert capsys.readouterr().out == f"inputfiles_list = {inputfiles_list}\n"
    assert clock.now == rescale.FILES_INTERVAL  # the list has been the same twice
    assert not [path for path in paths_asked(sim) if path.endswith("/contents/")]


@pytest.mark.parametrize("listed", ["none", "left", "all"])
def test_in_a_chain_of_three_each_job_starts_with_what_the_one_before_it_left(listed, access, sim, run_job):
    sim.lists_inputs = listed
    first = run_job("echo one > log; rm rod.inp\n", {"rod.inp": b"x"})
    given = rescale.file_previous_job(*access, first)
    second = run_job("test ! -e rod.inp; echo two >> log\n", inputfiles_list=given)
    given = rescale.file_previous_job(*access, second)
    assert given == [{"id": id_of(sim, "rescale.tar.gz", second), "decompress": True}]
    third = run_job("cat log; test \"$(cat log)\" = \"$(printf 'one\\ntwo')\"\n", inputfiles_list=given)
    assert sim.jobs[third].statuses[-1]["statusReason"] == "Completed successfully"


@pytest.mark.parametrize("listed", ["left", "all"])
@pytest.mark.parametrize("command", ["[[ a b\n", "kill -9 $$\n", "exit 3\n"], ids=["unparsed", "killed", "failed"])
def test_a_job_that_did_nothing_with_its_input_does_not_hand_it_on(command, listed, access, clock, sim, run_job):
    """Whatever the platform says about its end."""
    sim.lists_inputs, sim.ignore_exit_codes = listed, True
    first = run_job("echo one > log\n")
    second = run_job(command, inputfiles_list=rescale.file_previous_job(*access, first))
    with pytest.raises(rescale.RescaleError, match=second):
        rescale.file_previous_job(*access, second)


def test_a_job_that_hands_on_what_it_was_given_unchanged_is_not_taken_for_one_that_did_nothing(access, sim, run_job):
    first = run_job("echo one > log\n")
    second = run_job("true\n", inputfiles_list=rescale.file_previous_job(*access, first))
    assert rescale.file_previous_job(*access, second)[0]["id"] == id_of(sim, "rescale.tar.gz", second)


def test_only_the_archive_is_taken_from_among_many_files(access, sim, ended_job):
    files = {
        "a.tar.gz": b"1", "my_rescale.tar.gz": b"2", "rescale.tar.gz": b"3", "rescale.tar.gz.bak": b"4",
        "sub/rescale.tar.gz": b"5", "tmp/rescale.tar.gz": b"6", "z": b"7",
    }
    job_id = ended_job(files)
    assert rescale.file_previous_job(*access, job_id) == [{"id": id_of(sim, "rescale.tar.gz"), "decompress": True}]


def test_on_many_pages_the_archive_is_found(access, sim, ended_job):
    job_id = ended_job({**{f"frame {number}": b"" for number in range(30)}, "rescale.tar.gz": b"1"})
    sim.page_size_cap = 4
    assert rescale.file_previous_job(*access, job_id)[0]["id"] == id_of(sim, "rescale.tar.gz")


def test_where_the_job_worked_in_shared_its_archive_is_taken_from_there(access, clock, sim, run_job):
    sim.shared_work = True
    job_id = run_job("echo 1 > a\n")
    assert rescale.file_previous_job(*access, job_id)[0]["id"] == id_of(sim, "shared/rescale.tar.gz")


def test_of_two_archives_the_one_in_shared_is_taken_where_the_job_packed(access, clock, sim, ended_job):
    job_id = ended_job({"rescale.tar.gz": b"1", "shared/rescale.tar.gz": b"2"})
    assert rescale.file_previous_job(*access, job_id)[0]["id"] == id_of(sim, "shared/rescale.tar.gz")


def test_hundreds_of_files_are_listed_in_few_requests(access, sim, ended_job):
    job_id = ended_job({**{f"frame {number}": b"" for number in range(600)}, "rescale.tar.gz": b"1"})
    sim.requests.clear()
    assert rescale.file_previous_job(*access, job_id)[0]["id"] == id_of(sim, "rescale.tar.gz")
    assert len(sim.requests) <= 6


@pytest.mark.parametrize(
    "lag",
    [{"listing_lag": 4}, {"upload_lag": 4}, {"size_lag": 4}, {"listing_lag": 2, "upload_lag": 4}, {"listing_lag": 60}],
    ids=["short", "not stored", "no sizes", "both", "for half an hour"],
)
def test_a_list_that_still_grows_is_waited_for(lag, access, clock, sim, ended_job):
    job_id = ended_job({"a": b"", "b": b"", "process_output.log": b"Exited with code 0\n", "rescale.tar.gz": b"1"})
    for name, value in lag.items():
        setattr(sim, name, value)
    for file_id in sim.jobs[job_id].files:
        sim.files[file_id].is_uploaded = not sim.upload_lag
    assert rescale.file_previous_job(*access, job_id)[0]["id"] == id_of(sim, "rescale.tar.gz")
    assert 0 < clock.now <= rescale.FILES_PATIENCE


# What is no input for the next job


def test_without_an_archive_it_is_told_what_there_is(access, clock, sim, ended_job):
    job_id = ended_job({"result.odb": b"1", "sub/rescale.tar.gz": b"2"})
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.file_previous_job(*access, job_id)
    words = str(refused.value)
    assert all(word in words for word in (job_id, "rescale.tar.gz", "result.odb", f"{sim.url}/jobs/{job_id}/"))


def test_without_any_file_that_is_told_after_an_hour(access, clock, ended_job, capsys):
    job_id = ended_job({})
    with pytest.raises(rescale.RescaleError, match="nothing"):
        rescale.file_previous_job(*access, job_id)
    assert rescale.FILES_PATIENCE <= clock.now <= rescale.FILES_PATIENCE + 60
    assert capsys.readouterr().out.count(job_id) >= 3  # that it goes on is told now and then


@pytest.mark.parametrize("state", ["is_deleted", "is_uploaded"])
def test_an_archive_that_is_deleted_or_not_stored_is_no_result(state, access, clock, sim, ended_job):
    job_id = ended_job({"rescale.tar.gz": b"1", "a": b"2"})
    sim.upload_lag = 10_000
    setattr(sim.files[id_of(sim, "rescale.tar.gz")], state, state == "is_deleted")
    with pytest.raises(rescale.RescaleError, match=job_id):
        rescale.file_previous_job(*access, job_id)


@pytest.mark.parametrize("quirks", [{}, {"ignore_exit_codes": True}, {"ignore_exit_codes": True, "listing_lag": 3},
                                    {"ignore_exit_codes": True, "shared_work": True}],
                         ids=["reported", "not reported", "listed late", "in shared"])
def test_what_a_failed_job_left_is_no_input(quirks, access, clock, sim, run_job):
    for name, value in quirks.items():
        setattr(sim, name, value)
    job_id = run_job("echo 1 > a; exit 3\n")
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.file_previous_job(*access, job_id)
    assert job_id in str(refused.value)
    assert "process_output.log" in str(refused.value)
    assert clock.now < 60  # which is known without waiting for what will never be there


def test_what_a_stopped_job_left_is_no_input(access, clock, sim, set_up):
    job_id = set_up(command="echo 1 > rescale.tar.gz; sleep 60\n")
    rescale.job_submit(*access, "job", job_id)
    wait_until(lambda: (sim.jobs[job_id].work / "rescale.tar.gz").exists())
    rescale.job_stop(*access, job_id)
    wait_until(lambda: sim.jobs[job_id].ended)
    assert id_of(sim, "rescale.tar.gz", job_id)
    with pytest.raises(rescale.RescaleError, match=job_id):
        rescale.file_previous_job(*access, job_id)


@pytest.mark.parametrize("submitted", [True, False])
def test_a_job_that_has_not_ended_has_no_result_yet(submitted, access, clock, sim, set_up):
    job_id = set_up(command="sleep 60\n")
    if submitted:
        rescale.job_submit(*access, "job", job_id)
    before = clock.now
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.file_previous_job(*access, job_id)
    assert f"monitor {job_id}" in str(refused.value)
    assert clock.now == before


def test_an_unknown_job_is_refused(access):
    with pytest.raises(rescale.RescaleError, match="404"):
        rescale.file_previous_job(*access, "nOnE")


@pytest.mark.parametrize("fault", ["504", "html", "reset_midway", "truncated", "throttled"])
def test_a_request_that_goes_wrong_is_repeated(fault, access, sim, run_job):
    job_id = run_job()
    sim.faults.append(Fault(fault, times=3))
    assert rescale.file_previous_job(*access, job_id)[0]["id"] == id_of(sim, "rescale.tar.gz")
    assert sim.faults[0].hits == 3
