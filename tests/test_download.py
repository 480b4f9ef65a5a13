"""7. job_download: which files end up where under which names, and that none of them is a wrong one."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import here, paths_asked
from in_memory import JOB_ID, PLATFORM, TOKEN, Platform, a_file, a_list, connect
from rescale_simulator import Fault, Simulator

ARCHIVE = {"rescale.tar.gz": b"the archive"}
BIG = os.urandom(300_000)


@pytest.fixture
def in_ranges(monkeypatch):
    """Let a file of 300 kB come in ranges, as one of gigabytes does."""
    monkeypatch.setattr(rescale, "VOLUME", 100_000)
    monkeypatch.setattr(rescale, "RANGE", (40_000, 40_000))


@pytest.fixture(params=["in one piece", "in ranges"])
def way(request):
    """How a file of 300 kB comes."""
    if request.param == "in ranges":
        request.getfixturevalue("in_ranges")
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


def ranges_asked(sim):
    return [record.headers.get("Range") for record in sim.requests if record.path.endswith("/contents/")]


def part_of(sim, name="rescale.tar.gz"):
    return Path(f"job/.{file_named(sim, name).id}.part")


def test_results_are_downloaded_as_the_guide_prints_it(access, clock, clean_surroundings, ended_job, capsys):
    content = os.urandom(1024**2 * 3 // 2)
    for files in ({"rescale.tar.gz": content}, {"a.odb": content, "empty": b"", **ARCHIVE}):
        job_id = ended_job(files)
        paths = rescale.job_download(*access, f"me@rod@{len(files)}", job_id)
        assert paths == [clean_surroundings / f"me@rod@{len(files)}" / name for name in files]
        assert tree(f"me@rod@{len(files)}") == files
        assert capsys.readouterr().out.splitlines() == [
            f"Total {len(files)} files will be downloaded",
            *(f"{number} user/user_xMTMk/output/job_{job_id}/run1/{name} downloaded"
              for number, name in enumerate(files, 1)),
            f"Total {len(files)} files, 1.500 MB downloaded",
        ]


def test_files_keep_their_names_and_folders_and_nothing_else_is_left(access, ended_job):
    names = ["sub/deep/er.txt", "결과 1/압력.odb", "with blanks", "-rf", ".hidden", "a#b?c%20d&e", "it's", "a..b", "~"]
    files = {**ARCHIVE, **{name: name.encode() for name in names}}
    rescale.job_download(*access, "job", ended_job(files))
    assert tree() == files


@pytest.mark.parametrize("quirks", [
    pytest.param({"page_size_cap": 7, "next_without_slash": True}, id="next without slash"),
    pytest.param({"page_size_cap": 7, "next_drops_query": True}, id="next without query"),
    pytest.param({"page_size_cap": 8, "empty_last_page": True}, id="an empty last page"),
])
def test_all_pages_of_the_list_are_taken(quirks, access, clock, sim, ended_job):
    files = {**ARCHIVE, **{f"frame {number}": str(number).encode() for number in range(30)}}
    job_id = ended_job(files)
    for name, value in quirks.items():
        setattr(sim, name, value)
    assert len(rescale.job_download(*access, "job", job_id)) == 31
    assert tree() == files
    assert clock.now < 10


@pytest.mark.parametrize("lag", ["listing_lag", "upload_lag", "size_lag"])
def test_a_list_that_is_late_by_many_minutes_is_waited_for(lag, access, clock, sim, ended_job, capsys):
    files = {"frame 1": b"1", "frame 2": b"2", **ARCHIVE}
    job_id = ended_job(files)
    setattr(sim, lag, 25)
    for file_id in sim.jobs[job_id].files:
        sim.files[file_id].is_uploaded = not sim.upload_lag
    rescale.job_download(*access, "job", job_id)
    assert tree() == files
    assert clock.now > 4 * 60
    assert re.search(rf"{job_id}.* \d\d min", capsys.readouterr().out) or clock.now < rescale.OUTAGE_INTERVAL


def test_what_is_listed_only_after_the_archive_is_downloaded_too(access, clock, sim, ended_job):
    files = {"rescale.tar.gz": b"packed by the command itself", "result.odb": b"1"}
    job_id = ended_job(files)
    sim.jobs[job_id].files.sort(key=lambda id_: sim.files[id_].name != "rescale.tar.gz")
    sim.listing_lag = 1
    rescale.job_download(*access, "job", job_id)
    assert tree() == files


def test_files_that_were_never_stored_are_named_and_the_others_are_there(access, clock, sim, ended_job):
    job_id = ended_job({**ARCHIVE, "a.odb": b"1", "b.odb": b"2"})
    file_named(sim, "b.odb").is_uploaded = False
    sim.upload_lag = 10_000
    with pytest.raises(rescale.RescaleError) as failed:
        rescale.job_download(*access, "job", job_id)
    assert "b.odb" in str(failed.value)
    assert "a.odb" not in str(failed.value)
    assert tree() == {**ARCHIVE, "a.odb": b"1"}
    assert 55 * 60 <= clock.now <= 70 * 60  # an hour by the design


def test_inputs_and_what_was_deleted_on_the_platform_are_no_results(access, clock, sim, run_job):
    sim.lists_inputs = "all"
    job_id = run_job("echo 1 > a.odb\n", {"rescale.tar.gz": rescale.create_tar_gz(Path(__file__).parent / "example",
                                                                                 "in.tar.gz").read_bytes()})
    given = file_named(sim, "rescale.tar.gz").id
    deleted = sim.files[sim.jobs[job_id].files[0]]
    rescale.job_download(*access, "job", job_id)
    assert given not in fetched(sim)
    assert list(tree()) == ["rescale.tar.gz"]
    deleted.is_deleted = True
    with pytest.raises(rescale.RescaleError, match="no output files"):
        rescale.job_download(*access, "other", job_id)


def test_a_failed_job_leaves_its_log_and_partial_results(access, clock, run_job):
    rescale.job_download(*access, "job", run_job("echo hello; exit 3\n"))
    assert set(tree()) == {"process_output.log", "rescale_failed.tar.gz"}
    assert b"hello" in tree()["process_output.log"]


@pytest.mark.parametrize(("state", "words"), [
    ("unknown", "404"), ("draft", "not submitted"), ("running", "has not ended.* Executing"), ("empty", "no output"),
])
def test_where_there_is_nothing_to_download_that_is_said(state, words, access, clock, sim, set_up, ended_job, capsys):
    job_id = {"unknown": lambda: "nOnE", "draft": set_up, "running": lambda: ended_job({}, ("Executing", None)),
              "empty": lambda: ended_job({}, ("Executing", None), ("Completed", "A run failed"))}[state]()
    with pytest.raises(rescale.RescaleError, match=words) as failed:
        rescale.job_download(*access, "job", job_id)
    assert job_id in str(failed.value)
    assert state == "empty" or clock.now == 0  # at once
    assert here() == []
    assert "downloaded" not in capsys.readouterr().out


def test_a_job_of_the_web_page_is_downloaded_whatever_it_is_called(sim, fast, ended_job):
    for name, folder in (("Beam 1/2", "Beam 1_2"), ("../x", ".._x"), ("..", "__")):
        job_id = ended_job(ARCHIVE)
        sim.jobs[job_id].data["name"] = name
        done = subprocess.run(
            [sys.executable, rescale.__file__, "download", job_id], capture_output=True, text=True, check=False,
            env={**os.environ, "RESCALE_API_URL": sim.url, "RESCALE_API_KEY": sim.token},
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert tree(folder) == ARCHIVE
        assert sorted(path.name for path in Path("..").iterdir()) == ["here", "home", "platform"]


# Whether what has come is right


@pytest.mark.parametrize("checksums", ["sha512", "md5", "both"])
def test_a_file_that_arrives_damaged_is_fetched_again(way, checksums, access, sim, ended_job, capsys):
    job_id = ended_job({"rescale.tar.gz": BIG})
    sim.checksums = checksums
    sim.faults.append(Fault("corrupt", path="contents", times=1))
    rescale.job_download(*access, "job", job_id)
    assert tree() == {"rescale.tar.gz": BIG}
    assert capsys.readouterr().out.count("damaged") == 1


def test_a_file_that_stays_damaged_is_not_kept_under_its_name(way, access, sim, ended_job, capsys):
    job_id = ended_job({"rescale.tar.gz": BIG, "sound": b"1"})
    archive = file_named(sim, "rescale.tar.gz")
    sim.faults.append(Fault("corrupt", path=archive.id, times=100))
    with pytest.raises(rescale.RescaleError, match=r"rescale\.tar\.gz.*twice"):
        rescale.job_download(*access, "job", job_id)
    assert not {"rescale.tar.gz", part_of(sim).name} & set(tree())
    assert "Total 2 files, " not in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["503", "reset_before", "reset_midway", "truncated", "html", "throttled"])
@pytest.mark.parametrize("quirk", ["checksums", "contents_redirect", "ignore_range"])
def test_a_download_that_breaks_goes_on_however_the_file_comes(way, quirk, fault, access, sim, ended_job, capsys):
    setattr(sim, quirk, "none" if quirk == "checksums" else True)
    job_id = ended_job({"rescale.tar.gz": BIG})
    sim.faults.append(Fault(fault, path="contents", times=3))
    rescale.job_download(*access, "job", job_id)
    assert tree() == {"rescale.tar.gz": BIG}
    assert sim.faults[0].hits == 3 or quirk == "contents_redirect"  # whose link has come whole before the reset
    assert (quirk == "checksums") == ("no checksum" in capsys.readouterr().out)


@pytest.mark.parametrize("fault", ["404", "503", "wrong range"])
def test_what_an_error_leaves_is_a_beginning_of_the_file_and_no_range_ahead_of_it(
    fault, in_ranges, access, clock, sim, ended_job
):
    job_id = ended_job({"rescale.tar.gz": BIG})
    file = file_named(sim, "rescale.tar.gz")
    sim.wrong_range = fault == "wrong range"
    if fault == "503":
        sim.faults.append(Fault("503", path="contents", skip=3, times=10_000))
    sim.on_request = lambda *_: setattr(file, "is_deleted", fault == "404" and len(ranges_asked(sim)) > 3)
    with pytest.raises(rescale.RescaleError):
        rescale.job_download(*access, "job", job_id)
    left = tree()
    assert set(left) <= {part_of(sim).name}
    assert all(BIG.startswith(content) for content in left.values())

    sim.faults.clear()
    sim.wrong_range, sim.on_request, file.is_deleted = False, None, False
    rescale.job_download(*access, "job", job_id)
    assert tree() == {"rescale.tar.gz": BIG}


@pytest.mark.parametrize("size", [1, 5000, 150_000, 299_999, 300_000, 300_001])
@pytest.mark.parametrize("checksums", ["sha512", "none"])
@pytest.mark.parametrize("ignore_range", [False, True], ids=["with Range", "without Range"])
def test_a_download_goes_on_from_any_size(way, size, checksums, ignore_range, access, sim, ended_job):
    sim.checksums, sim.ignore_range = checksums, ignore_range
    job_id = ended_job({"rescale.tar.gz": BIG})
    Path("job").mkdir()
    part_of(sim).write_bytes((BIG + b"x")[:size])
    rescale.job_download(*access, "job", job_id)
    assert tree() == {"rescale.tar.gz": BIG}
    asked = ranges_asked(sim)
    if size < len(BIG):
        assert asked[0].startswith("bytes=") if way == "in ranges" else asked[0] == f"bytes={size}-299999"
        assert min(int(re.search(r"\d+", range_)[0]) for range_ in asked) == size
    else:
        assert bool(asked) == (size > len(BIG))


@pytest.mark.parametrize("checksums", ["with a checksum", "without"])
@pytest.mark.parametrize("comes", [100, 5_000, 70_000, 1_000_000])
def test_a_line_that_breaks_as_often_as_it_will_gets_on(comes, checksums, clock, monkeypatch):
    """At least half of what comes is kept, so that twice as many requests as there are pieces will do."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    content = os.urandom(10 * comes)
    platform = Platform(files={"arChiv": ("rescale.tar.gz", content)})
    if checksums == "without":
        platform.answers[f"jobs/{JOB_ID}/files/"]["results"][0].update(md5=None, fileChecksums=[])

    class Line(io.BytesIO):
        def read(self, size=-1):
            left = comes - self.tell()
            if left < size:
                super().read(left)
                raise ConnectionResetError("the line broke")
            return super().read(size)

    def answer(request):
        status, body, *rest = platform(request)
        return (status, Line(body) if isinstance(body, bytes) and len(body) > comes else body, *rest)

    network = connect(answer)
    rescale.job_download(PLATFORM, TOKEN, "job", JOB_ID)
    assert tree() == {"rescale.tar.gz": content}
    assert network.count < 30


def test_an_answer_without_an_end_does_not_fill_the_disk(clock, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    platform, taken = Platform(files={"arChiv": ("rescale.tar.gz", b"x" * 1000)}), []

    def answer(request):
        taken.append(sum(map(len, tree().values())))
        status, body, *rest = platform(request)
        return (status, b"x" * 5_000_000 if isinstance(body, bytes) else body, *rest)

    connect(answer)
    with pytest.raises(rescale.RescaleError, match="more than 1000 bytes"):
        rescale.job_download(PLATFORM, TOKEN, "job", JOB_ID)
    assert max(taken) <= 1000


# Names


@pytest.mark.parametrize("name", [
    "../out", "/tmp/out", "a/../../out", "..", ".", "a//b", "./a", "a/", "a\\..\\b", "..\\out", "C:\\out", "C:out",
    "a\nb", "a\0b", "\x1b[2J", "x\ud800", "y" * 300, "결" * 200,
], ids=lambda name: f"{name[:12].encode('unicode_escape').decode()}")
def test_a_name_that_cannot_be_here_is_changed_and_stays_in_the_folder_and_the_others_come(name, clock, capsys):
    platform = Platform(files={"gOod": ("rescale.tar.gz", b"1"), "bAd": ("bad", b"2"), "lAst": ("z", b"3")})
    platform.answers[f"jobs/{JOB_ID}/files/"]["results"][1].update(relativePath=name, name=name)
    connect(platform)
    before = sorted(Path("..").rglob("*"))
    paths = rescale.job_download(PLATFORM, TOKEN, "job", JOB_ID)
    assert [path.read_bytes() for path in paths] == [b"1", b"2", b"3"]
    assert all(Path("job").resolve() in path.resolve().parents for path in paths)
    assert {path for path in Path("..").rglob("*") if "job" not in path.parts} == set(before)
    assert paths[1].name in capsys.readouterr().out


def test_a_path_that_is_too_long_for_this_disk_does_not_keep_the_others_away(clock):
    connect(Platform(files={"lOng": ("x/" * 2500 + "x", b"1"), "aRch": ("rescale.tar.gz", b"2"), "lAst": ("z", b"3")}))
    with pytest.raises(rescale.RescaleError, match=r"not downloaded: x/x/x.*again"):
        rescale.job_download(PLATFORM, TOKEN, "job", JOB_ID)
    assert {name: content for name, content in tree().items() if content} == {"rescale.tar.gz": b"2", "z": b"3"}


@pytest.mark.parametrize("paths", [("A", "a", "B"), ("out", "out", "out.fIle1"), ("out", "out.fIle2", "out")],
                         ids=["letters", "equal", "equal to what is made"])
def test_files_that_want_the_same_place_are_all_kept(paths, clock):
    files = [a_file(f"fIle{number}", path, b"%d" % number) for number, path in enumerate(paths)]
    platform = Platform(files={f"fIle{number}": ("", b"%d" % number) for number in range(3)}, made_here=False)
    platform.answers[f"jobs/{JOB_ID}/files/"] = a_list(*files)
    connect(platform)
    found = rescale.job_download(PLATFORM, TOKEN, "job", JOB_ID)
    assert [path.read_bytes() for path in found] == [b"0", b"1", b"2"]
    assert len({str(path).casefold() for path in found}) == 3


# What is there already


def test_what_is_there_already_is_not_fetched_again(access, clock, sim, ended_job, capsys):
    files = {**ARCHIVE, "b": b"2"}
    job_id = ended_job(files)
    first = rescale.job_download(*access, "job", job_id)
    Path("job/b").unlink()
    sim.requests.clear()
    capsys.readouterr()
    assert rescale.job_download(*access, "job", job_id) == first
    assert fetched(sim) == {file_named(sim, "b").id}
    assert tree() == files
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2] for line in lines[1:3]] == ["b downloaded", "rescale.tar.gz was here already"]


@pytest.mark.parametrize("checksums", ["both", "none"])
def test_another_file_that_is_in_the_way_is_kept_under_a_new_name(checksums, access, sim, ended_job, capsys):
    job_id = ended_job(ARCHIVE)
    sim.checksums = checksums
    Path("job").mkdir()
    for number, content in enumerate((b"mine", b"of equal l."), 1):
        Path("job/rescale.tar.gz").write_bytes(content)
        rescale.job_download(*access, "job", job_id)
        assert tree()["rescale.tar.gz"] == ARCHIVE["rescale.tar.gz"]
        assert f"rescale.tar.gz.previous-{number}" in capsys.readouterr().out
    assert sorted(tree().values()) == sorted([b"mine", b"of equal l.", ARCHIVE["rescale.tar.gz"]])


@pytest.mark.skipif(os.name == "nt", reason="locks are others there")
def test_two_processes_do_not_write_the_same_file(access, sim, ended_job):
    job_id = ended_job(ARCHIVE)
    Path("job").mkdir()
    with rescale._locked(part_of(sim)), pytest.raises(rescale.RescaleError, match="in use"):  # as by another process
        rescale.job_download(*access, "job", job_id)
    assert not fetched(sim)
    rescale.job_download(*access, "job", job_id)
    assert tree() == ARCHIVE


@pytest.mark.parametrize("obstacle", ["file in place of the folder", "file in place of a folder in it"])
def test_what_cannot_be_written_is_told_and_what_is_there_is_kept(obstacle, access, ended_job):
    job_id = ended_job({**ARCHIVE, "sub/a": b"1"})
    if obstacle.endswith("of the folder"):
        Path("job").write_bytes(b"mine")
    else:
        Path("job").mkdir()
        Path("job/sub").write_bytes(b"mine")
    with pytest.raises(rescale.RescaleError, match="job"):
        rescale.job_download(*access, "job", job_id)
    assert b"mine" in {path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_without_room_nothing_is_fetched_and_what_an_interrupted_download_left_needs_none(
    access, clock, sim, ended_job, monkeypatch
):
    usage = namedtuple("usage", "total used free")
    job_id = ended_job({"rescale.tar.gz": BIG})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**7, 10**7, 299_999))
    with pytest.raises(rescale.RescaleError, match="nothing was downloaded"):
        rescale.job_download(*access, "job", job_id)
    assert not fetched(sim)

    part_of(sim).write_bytes(BIG[:1])
    rescale.job_download(*access, "job", job_id)
    assert tree() == {"rescale.tar.gz": BIG}


def test_bytes_that_are_labelled_as_encoded_but_are_not_are_taken_as_they_are(access, clock, ended_job, monkeypatch):
    """As servers do that take the ending .gz for an encoding of the transfer."""
    job_id, stream = ended_job(ARCHIVE), Simulator._stream

    def labelled(*arguments):
        answer = stream(*arguments)
        answer.headers["Content-Encoding"] = "gzip"
        return answer

    monkeypatch.setattr(Simulator, "_stream", labelled)
    rescale.job_download(*access, "job", job_id)
    assert tree() == ARCHIVE


def test_what_has_been_stopped_asks_nothing_more(sim, access):
    with rescale._Progress("downloading", 1) as progress:
        pass
    with pytest.raises(rescale.RescaleError, match="stopped"):
        rescale._request(access, "GET", "users/me/", stop=progress.stop)
    assert not sim.requests
