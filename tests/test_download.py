"""7. job_download: which files end up where under which names, and that none of them is a wrong one."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import here, paths_asked
from rescale_simulator import Fault

ARCHIVE = {"rescale.tar.gz": b"the archive"}


@pytest.fixture(params=["in one piece", "in ranges"])
def way(request, monkeypatch):
    """How a file of 300 kB comes."""
    if request.param == "in ranges":
        monkeypatch.setattr(rescale, "SINGLE", 100_000)
        monkeypatch.setattr(rescale, "RANGE", 40_000)
    return request.param


def tree(folder="job"):
    """All files below a folder: path and content."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def fetched(sim):
    """The ids of the files whose contents were asked for."""
    return {path.split("/")[1] for path in paths_asked(sim) if path.endswith("/contents/")}


def file_named(sim, name):
    return next(file for file in sim.files.values() if file.relative_path == name)


def test_a_result_is_downloaded_as_the_guide_prints_it(access, clock, clean_surroundings, ended_job, capsys):
    content = os.urandom(1024**2 * 3 // 2)
    job_id = ended_job({"rescale.tar.gz": content})
    paths = rescale.job_download(*access, "me@rod@1", job_id)
    assert paths == [clean_surroundings / "me@rod@1" / "rescale.tar.gz"]
    assert tree("me@rod@1") == {"rescale.tar.gz": content}
    assert capsys.readouterr().out == (
        "Total 1 files will be downloaded\n"
        f"1 user/user_xMTMk/output/job_{job_id}/run1/rescale.tar.gz downloaded\n"
        "Total 1 files, 1.500 MB downloaded\n"
    )


def test_several_files_are_numbered_and_summed_up(access, clock, ended_job, capsys):
    files = {"a.odb": b"x" * 1024**2, "b.odb": b"y" * 1024**2, "empty": b"", "process_output.log": b"log"}
    job_id = ended_job(files)
    paths = rescale.job_download(*access, "job", job_id)
    assert [path.name for path in paths] == list(files)
    assert tree() == files
    assert capsys.readouterr().out.splitlines() == [
        "Total 4 files will be downloaded",
        *(f"{number} user/user_xMTMk/output/job_{job_id}/run1/{name} downloaded"
          for number, name in enumerate(files, 1)),
        "Total 4 files, 2.000 MB downloaded",
    ]


@pytest.mark.parametrize(
    "name",
    ["sub/deep/er.txt", "결과 1/압력.odb", "with blanks", "-rf", ".hidden", "a#b?c%20d&e", "it's", "with..dots", "~"],
)
def test_files_keep_their_names_and_folders(name, access, ended_job):
    rescale.job_download(*access, "job", ended_job({name: b"content"}))
    assert tree() == {name: b"content"}


def test_nothing_but_the_results_is_left_in_the_folder(access, ended_job):
    rescale.job_download(*access, "job", ended_job({"sub/a": b"1", "b": b"2"}))
    assert sorted(path.relative_to("job").as_posix() for path in Path("job").rglob("*")) == ["b", "sub", "sub/a"]


@pytest.mark.parametrize(
    "quirks",
    [{}, {"page_size_cap": 7, "next_without_slash": True}, {"page_size_cap": 7, "next_drops_query": True}],
    ids=str,
)
def test_all_pages_of_the_list_are_taken(quirks, access, sim, ended_job):
    files = {f"frame {number}": str(number).encode() for number in range(30)}
    job_id = ended_job(files)
    for name, value in quirks.items():
        setattr(sim, name, value)
    assert len(rescale.job_download(*access, "job", job_id)) == 30
    assert tree() == files


@pytest.mark.parametrize("lag", [{"listing_lag": 3}, {"upload_lag": 3}, {"listing_lag": 3, "upload_lag": 5}], ids=str)
def test_a_list_that_still_grows_is_waited_for(lag, access, clock, sim, ended_job):
    files = {f"frame {number}": str(number).encode() for number in range(8)}
    job_id = ended_job(files)
    for name, value in lag.items():
        setattr(sim, name, value)
    for file_id in sim.jobs[job_id].files:
        sim.files[file_id].is_uploaded = not sim.upload_lag
    rescale.job_download(*access, "job", job_id)
    assert tree() == files


def test_what_is_listed_only_after_the_archive_is_downloaded_too(access, clock, sim, ended_job):
    files = {"rescale.tar.gz": b"packed by the command itself", "result.odb": b"1"}
    job_id = ended_job(files)
    sim.jobs[job_id].files.sort(key=lambda id_: sim.files[id_].name != "rescale.tar.gz")
    sim.listing_lag = 1
    paths = rescale.job_download(*access, "job", job_id)
    assert [path.name for path in paths] == list(files)
    assert tree() == files


def test_a_good_job_is_downloaded_after_a_second_look_at_its_list(access, clock, run_job):
    """Whoever calls it may have packed the archive, and left more, without job_setup."""
    rescale.job_download(*access, "job", run_job())
    assert clock.now == rescale.FILES_INTERVAL


def test_files_that_were_never_stored_are_named_and_the_others_are_there(access, clock, sim, ended_job):
    job_id = ended_job({"a.odb": b"1", "b.odb": b"2", "c.odb": b"3"})
    file_named(sim, "b.odb").is_uploaded = False
    sim.upload_lag = 10_000
    with pytest.raises(rescale.RescaleError) as failed:
        rescale.job_download(*access, "job", job_id)
    assert "b.odb" in str(failed.value)
    assert "a.odb" not in str(failed.value)
    assert tree() == {"a.odb": b"1", "c.odb": b"3"}
    assert 60 <= clock.now <= 300  # two minutes by the design


def test_a_file_that_was_deleted_on_the_platform_is_no_result(access, sim, ended_job):
    job_id = ended_job({"a": b"1", "b": b"2"})
    file_named(sim, "a").is_deleted = True
    rescale.job_download(*access, "job", job_id)
    assert tree() == {"b": b"2"}


def test_a_job_without_files_is_told_with_its_result_page(access, clock, sim, ended_job, capsys):
    job_id = ended_job({})
    with pytest.raises(rescale.RescaleError) as failed:
        rescale.job_download(*access, "job", job_id)
    assert f"{sim.url}/jobs/{job_id}/runs/1/results/" in str(failed.value)
    assert here() == []
    assert "downloaded" not in capsys.readouterr().out


def test_an_unknown_job_is_refused(access, sim):
    with pytest.raises(rescale.RescaleError, match="404"):
        rescale.job_download(*access, "job", "nOnE")
    assert here() == []


def test_a_failed_job_leaves_its_log_and_partial_results(access, clock, run_job):
    rescale.job_download(*access, "job", run_job("echo hello; exit 3\n"))
    assert set(tree()) == {"process_output.log", "rescale.tar.gz"}
    assert b"hello" in tree()["process_output.log"]


# What the server says is checked


@pytest.mark.parametrize(
    "relative_path",
    [
        "../out", "/tmp/out", "a/../../out", "..", "a//b", "./a", "a/", "a\\..\\b", "C:\\out", "C:out", "a\nb", "a\0b",
        "\x1b[2J",
    ],
)
def test_a_path_that_leads_out_of_the_folder_is_refused_and_nothing_is_written(
    relative_path, access, clock, sim, ended_job
):
    job_id = ended_job({"good": b"1", "zbad": b"2"})
    file_named(sim, "zbad").relative_path = relative_path
    before = sorted(Path("..").rglob("out"))
    with pytest.raises(rescale.RescaleError):
        rescale.job_download(*access, "job", job_id)
    assert sorted(Path("..").rglob("out")) == before
    assert not fetched(sim)
    assert not Path("job").exists()


@pytest.mark.parametrize("checksums", ["sha512", "md5", "both"])
def test_a_file_that_arrives_damaged_is_fetched_again(way, checksums, access, sim, ended_job, capsys):
    files = {"rescale.tar.gz": os.urandom(300_000)}
    job_id = ended_job(files)
    sim.checksums = checksums
    sim.faults.append(Fault("corrupt", path="contents", times=1))
    rescale.job_download(*access, "job", job_id)
    assert tree() == files
    assert capsys.readouterr().out.count("damaged") == 1


def test_a_file_that_stays_damaged_is_not_kept_under_its_name(access, sim, ended_job, capsys):
    job_id = ended_job({**ARCHIVE, "sound": b"1"})
    archive = file_named(sim, "rescale.tar.gz")
    sim.faults.append(Fault("corrupt", path=archive.id, times=100))
    with pytest.raises(rescale.RescaleError) as failed:
        rescale.job_download(*access, "job", job_id)
    assert "rescale.tar.gz" in str(failed.value)
    assert not Path("job/rescale.tar.gz").exists()
    assert "Total 2 files, " not in capsys.readouterr().out


def test_without_a_checksum_the_size_is_checked_and_that_is_told(way, access, sim, ended_job, capsys):
    files = {"rescale.tar.gz": os.urandom(300_000)}
    job_id = ended_job(files)
    sim.checksums = "none"
    rescale.job_download(*access, "job", job_id)
    assert tree() == files
    assert "checksum" in capsys.readouterr().out
    assert [record.headers.get("Range") for record in sim.requests if "/contents/" in record.path] == [None]


@pytest.mark.parametrize("fault", ["503", "reset_before", "reset_midway", "truncated", "html", "throttled"])
def test_a_download_that_breaks_goes_on(way, fault, access, sim, ended_job):
    job_id = ended_job({"rescale.tar.gz": os.urandom(300_000)})
    sim.faults.append(Fault(fault, path="contents", times=3))
    rescale.job_download(*access, "job", job_id)
    assert tree() == {"rescale.tar.gz": file_named(sim, "rescale.tar.gz").path.read_bytes()}
    assert sim.faults[0].hits == 3


@pytest.mark.parametrize("quirk", ["contents_redirect", "ignore_range"])
def test_other_ways_to_deliver_a_file_are_fine(way, quirk, access, sim, ended_job):
    setattr(sim, quirk, True)
    sim.faults.append(Fault("reset_midway", path="contents", times=1))
    job_id = ended_job({"rescale.tar.gz": os.urandom(300_000)})
    rescale.job_download(*access, "job", job_id)
    assert tree() == {"rescale.tar.gz": file_named(sim, "rescale.tar.gz").path.read_bytes()}


def test_another_part_of_a_file_than_was_asked_for_is_not_taken(access, sim, ended_job, monkeypatch):
    monkeypatch.setattr(rescale, "PATIENCE", 5)
    sim.checksums, sim.wrong_range = "none", True
    sim.faults.append(Fault("reset_midway", path="contents", times=1))
    job_id = ended_job({"rescale.tar.gz": os.urandom(4_000_000)})
    with pytest.raises(rescale.RescaleError, match="another part of the file"):
        rescale.job_download(*access, "job", job_id)
    assert not Path("job/rescale.tar.gz").exists()


def test_without_a_checksum_the_page_of_a_proxy_does_not_become_a_part_of_the_file(access, sim, ended_job):
    files = {"rescale.tar.gz": os.urandom(300_000)}
    job_id = ended_job(files)
    sim.checksums = "none"
    sim.faults.append(Fault("html", path="contents", times=2))
    rescale.job_download(*access, "job", job_id)
    assert tree() == files


def test_as_long_as_some_of_it_comes_a_line_may_break_as_often_as_it_will(access, sim, ended_job, monkeypatch):
    monkeypatch.setattr(rescale, "PATIENCE", 0.5)  # which the first fault uses up
    monkeypatch.setattr(rescale, "BLOCK", 10_000)
    files = {"rescale.tar.gz": os.urandom(300_000)}
    job_id = ended_job(files)
    sim.faults.append(Fault("reset_midway", path="contents", times=3))
    rescale.job_download(*access, "job", job_id)
    assert tree() == files
    assert sim.faults[0].hits == 3


@pytest.mark.skipif(os.name == "nt", reason="locks are others there")
def test_two_processes_do_not_write_the_same_file(access, sim, ended_job):
    job_id = ended_job(ARCHIVE)
    Path("job").mkdir()
    part = Path(f"job/.{file_named(sim, 'rescale.tar.gz').id}.part")
    with rescale._locked(part), pytest.raises(rescale.RescaleError, match="in use"):  # as another process has it
        rescale.job_download(*access, "job", job_id)
    assert not fetched(sim)
    rescale.job_download(*access, "job", job_id)
    assert tree() == ARCHIVE


# What is there already


def test_what_is_there_already_is_not_fetched_again(access, sim, ended_job, capsys):
    job_id = ended_job({"a": b"1", "b": b"2"})
    first = rescale.job_download(*access, "job", job_id)
    Path("job/b").unlink()
    sim.requests.clear()
    capsys.readouterr()
    assert rescale.job_download(*access, "job", job_id) == first
    assert fetched(sim) == {file_named(sim, "b").id}
    assert tree() == {"a": b"1", "b": b"2"}
    lines = capsys.readouterr().out.splitlines()
    assert "here already" in lines[1]
    assert lines[2].endswith("/b downloaded")


def test_what_was_there_already_counts_as_downloaded_now(access, ended_job):
    """By that time main.py knows that it is the last job's result, not what a failed one left."""
    job_id = ended_job(ARCHIVE)
    [path] = rescale.job_download(*access, "job", job_id)
    os.utime(path, (1, 1))
    rescale.job_download(*access, "job", job_id)
    assert path.stat().st_mtime > 1


def test_another_file_that_is_in_the_way_is_kept_under_a_new_name(access, ended_job, capsys):
    job_id = ended_job(ARCHIVE)
    Path("job").mkdir()
    for content in (b"mine", b"of equal l."):
        Path("job/rescale.tar.gz").write_bytes(content)
        rescale.job_download(*access, "job", job_id)
        assert tree()["rescale.tar.gz"] == ARCHIVE["rescale.tar.gz"]
    assert sorted(tree().values()) == sorted([b"mine", b"of equal l.", ARCHIVE["rescale.tar.gz"]])
    assert "another rescale.tar.gz" in capsys.readouterr().out


def test_without_a_checksum_another_file_of_equal_length_is_not_taken_for_the_result(access, sim, ended_job):
    job_id = ended_job(ARCHIVE)
    sim.checksums = "none"
    Path("job").mkdir()
    Path("job/rescale.tar.gz").write_bytes(b"of equal l.")
    rescale.job_download(*access, "job", job_id)
    assert tree() == {**ARCHIVE, "rescale.tar.gz.previous-1": b"of equal l."}


def test_two_files_of_one_path_are_both_kept(access, sim, ended_job):
    job_id = ended_job({"a": b"1", "b": b"2", "c": b"3"})
    for name in ("b", "c"):
        file_named(sim, name).relative_path = "A" if name == "b" else "a"
    paths = rescale.job_download(*access, "job", job_id)
    assert sorted(path.read_bytes() for path in paths) == [b"1", b"2", b"3"]
    assert len({str(path).casefold() for path in paths}) == 3


@pytest.mark.parametrize("obstacle", ["file in place of the folder", "folder in place of the file"])
def test_what_cannot_be_written_is_told(obstacle, access, ended_job):
    job_id = ended_job({"sub/a": b"1"})
    if obstacle.startswith("file"):
        Path("job").write_bytes(b"mine")
    else:
        Path("job").mkdir()
        Path("job/sub").write_bytes(b"mine")
    with pytest.raises(rescale.RescaleError, match="job"):
        rescale.job_download(*access, "job", job_id)
    assert b"mine" in {path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_what_an_interrupted_download_left_needs_no_room(way, access, sim, ended_job, monkeypatch):
    monkeypatch.setattr(rescale, "PATIENCE", 3)
    job_id = ended_job({"big.odb": os.urandom(300_000)})
    sim.faults.append(Fault("truncated", path="contents", times=100))
    with pytest.raises(rescale.RescaleError, match="bytes came|broken"):
        rescale.job_download(*access, "job", job_id)
    came = sum(path.stat().st_blocks for path in Path("job").iterdir()) * 512
    assert came
    sim.faults.clear()

    free = namedtuple("usage", "total used free")(10**7, 10**7, 300_000 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    rescale.job_download(*access, "job", job_id)

    assert [path.name for path in Path("job").iterdir()] == ["big.odb"]


def test_without_room_nothing_is_fetched(access, sim, ended_job, monkeypatch):
    job_id = ended_job({"big.odb": b"x" * 5_000_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "total used free")(10**7, 10**7, 10**6))
    with pytest.raises(rescale.RescaleError, match="5 MB"):
        rescale.job_download(*access, "job", job_id)
    assert not fetched(sim)
