"""8. file_previous_job: which of a job's files is the input of the next one. (test_monitor.py has the verdict it asks.)

| promise (design, part 8) | test |
|---|---|
| the id of the job's own rescale.tar.gz, not of its input, printed as in the guide, no download | printed |
| nothing but that: no other name or place, on whatever page; work/shared goes first | FILES |
| without one an error names what is there; one that was deleted since is none | is_told |
| a job that failed, goes on, or was never started hands nothing on | hands_on |
"""

from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import paths_asked


def id_of(sim, path, job_id):
    return next(id for id in sim.jobs[job_id].files if sim.files[id].relative_path == path)


def test_the_result_is_taken_as_the_guide_prints_it_and_without_a_download(access, clock, sim, ended_job, capsys):
    Path("rescale.tar.gz").write_bytes(b"given")
    given, job_id = rescale.upload_local_files(*access), ended_job({"rescale.tar.gz": b"1"})
    sim.jobs[job_id].data["jobanalyses"][0]["inputFiles"], sim.lists_inputs = given, "all"
    sim.requests.clear()
    capsys.readouterr()
    inputfiles_list = rescale.file_previous_job(*access, job_id)
    assert inputfiles_list == [{"id": id_of(sim, "rescale.tar.gz", job_id), "decompress": True}]
    assert capsys.readouterr().out == f"inputfiles_list = {inputfiles_list}\n"
    assert clock.now == rescale.FILES_INTERVAL  # the list has been the same twice
    assert not [path for path in paths_asked(sim) if path.endswith("/contents/")]


FILES = {
    "among others": (["a.tar.gz", "my_rescale.tar.gz", "rescale.tar.gz", "rescale.tar.gz.bak", "sub/rescale.tar.gz",
                      "process_output.log"], "rescale.tar.gz"),
    "on the last of many pages": ([*(f"frame {number}" for number in range(30)), "rescale.tar.gz"], "rescale.tar.gz"),
    "in shared": (["process_output.log", "shared/rescale.tar.gz"], "shared/rescale.tar.gz"),
    "in shared and in work": (["rescale.tar.gz", "shared/rescale.tar.gz"], "shared/rescale.tar.gz"),
}


@pytest.mark.parametrize("case", FILES)
def test_only_the_jobs_archive_is_taken(case, access, clock, sim, ended_job):
    names, result = FILES[case]
    job_id = ended_job({name: str(number).encode() for number, name in enumerate(names)})
    sim.page_size_cap = 4
    assert rescale.file_previous_job(*access, job_id) == [{"id": id_of(sim, result, job_id), "decompress": True}]


@pytest.mark.parametrize("names", [["result.odb", "sub/rescale.tar.gz"], [], ["rescale.tar.gz"]],
                         ids=["other files", "no files", "an archive that was deleted"])
def test_without_an_archive_it_is_told_what_there_is(names, access, clock, sim, ended_job):
    job_id = ended_job(dict.fromkeys(names, b"1"))
    sim.jobs[job_id].data["jobanalyses"][0]["command"] = "sh run.sh"  # of the web page, and a success
    for file_id in sim.jobs[job_id].files:
        sim.files[file_id].is_deleted = names == ["rescale.tar.gz"]
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.file_previous_job(*access, job_id)
    words = [job_id, "rescale.tar.gz", f"{sim.url}/jobs/{job_id}/", *names, *([] if names else ["nothing"])]
    assert [word for word in words if word not in str(refused.value)] == []


@pytest.mark.parametrize(("statuses", "words"), [
    ([("Executing", None), ("Completed", "A run failed")], ["failed", "A run failed", "process_output.log"]),
    ([("Executing", None), ("Stopped", "User Terminated")], ["stopped", "process_output.log"]),
    ([("Pending", None), ("Executing", None)], ["Executing", "monitor"]), ([], ["submitted", "monitor"])],
    ids=["failed", "was stopped", "goes on", "was never submitted"])
def test_nothing_is_handed_on_by_a_job_that(statuses, words, access, clock, sim, ended_job):
    job_id = ended_job({"rescale.tar.gz": b"1", "process_output.log": b"x\n"}, *statuses or [("Pending", None)])
    sim.jobs[job_id].ended = 1.0
    del sim.jobs[job_id].statuses[len(statuses):]
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.file_previous_job(*access, job_id)
    assert [word for word in [job_id, *words] if word not in str(refused.value)] == []
    assert clock.now < 10  # which is known without waiting for what will never be there
