"""2. create_tar_gz: what goes into the archive, what never does, and that half an archive is never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import TESTS, here, wait_until


def contents(archive="rescale.tar.gz"):
    with tarfile.open(archive, "r:gz") as tar:
        return {member.name: tar.extractfile(member).read() if member.isfile() else member.type for member in tar}


def members(archive="rescale.tar.gz"):
    with tarfile.open(archive, "r:gz") as tar:
        return {member.name: member for member in tar}


needs_links = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


@pytest.fixture
def case(tmp_path):
    """A folder of input files that is not the current one."""
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "rod.inp").write_bytes(b"*heading\n")
    return folder


# What goes in


def test_the_files_of_the_current_folder_are_packed_sorted(clean_surroundings, capsys):
    for name in ("b.inp", "a.inp", ".hidden", "C.inp", "empty"):
        Path(name).write_text("" if name == "empty" else name)
    archive = rescale.create_tar_gz()
    assert archive == clean_surroundings / "rescale.tar.gz"
    assert contents() == {name: name.encode() for name in (".hidden", "C.inp", "a.inp", "b.inp")} | {"empty": b""}
    assert list(members()) == sorted(members())
    assert capsys.readouterr().out == f"Successfully created rescale.tar.gz in {clean_surroundings}\n"


@pytest.mark.parametrize("kind", [str, Path])
def test_the_files_of_another_folder_are_packed_into_the_current_one(kind, case, clean_surroundings, capsys):
    archive = rescale.create_tar_gz(kind(case))
    assert archive == clean_surroundings / "rescale.tar.gz"
    assert contents() == {"rod.inp": b"*heading\n"}
    assert [path.name for path in case.iterdir()] == ["rod.inp"]
    assert f"Successfully created rescale.tar.gz in {clean_surroundings}\n" in capsys.readouterr().out


def test_the_archive_can_have_another_name(case, clean_surroundings, capsys):
    assert rescale.create_tar_gz(case, "other.tar.gz") == clean_surroundings / "other.tar.gz"
    assert contents("other.tar.gz") == {"rod.inp": b"*heading\n"}
    assert "Successfully created other.tar.gz in " in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    ["with blanks.inp", "한글 이름.inp", "-rf", "--checkpoint=1", "it's \"quoted\"", "$HOME", "n" * 150, "긴" * 80],
)
def test_any_name_survives(name, case):
    (case / name).write_bytes(b"content")
    rescale.create_tar_gz(case)
    assert contents() == {"rod.inp": b"*heading\n", name: b"content"}


@pytest.mark.parametrize("size", [1, 511, 512, 1 << 20, (5 << 20) + 1])
@pytest.mark.parametrize("compressible", [True, False])
def test_a_file_of_any_size_survives(size, compressible, case):
    content = (b"0.000000E+00 " * (size // 13 + 1))[:size] if compressible else os.urandom(size)
    (case / "big").write_bytes(content)
    rescale.create_tar_gz(case)
    assert contents()["big"] == content


def test_other_programs_can_unpack_it(case):
    (case / "한글.bin").write_bytes(os.urandom(3 << 20))
    rescale.create_tar_gz(case)
    subprocess.run(["gzip", "-t", "rescale.tar.gz"], check=True)
    Path("out").mkdir()
    subprocess.run(["tar", "-xzf", "rescale.tar.gz", "-C", "out"], check=True)
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == {
        path.name: path.read_bytes() for path in case.iterdir()
    }


def test_mode_and_date_are_kept_and_the_user_is_not(case):
    script = case / "run.sh"
    script.write_text("echo\n")
    script.chmod(0o755)
    os.utime(script, (1e9, 1e9))
    rescale.create_tar_gz(case)
    member = members()["run.sh"]
    assert member.mtime == 1e9
    assert os.name == "nt" or member.mode == 0o755
    assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")


@needs_links
def test_a_symbolic_link_is_packed_as_the_file_it_points_to(case, tmp_path):
    (tmp_path / "material.lib").write_bytes(b"steel")
    (case / "link.lib").symlink_to(tmp_path / "material.lib")
    (case / "same.inp").symlink_to("rod.inp")
    os.link(case / "rod.inp", case / "hard.inp")
    rescale.create_tar_gz(case)
    heading = b"*heading\n"
    assert contents() == {"rod.inp": heading, "same.inp": heading, "hard.inp": heading, "link.lib": b"steel"}


# What does not go in


def test_folders_are_left_out_and_named_in_one_line(case, capsys):
    for name in ("old results", "__pycache__"):
        (case / name).mkdir()
        (case / name / "file").write_text("x")
    rescale.create_tar_gz(case)
    assert contents() == {"rod.inp": b"*heading\n"}
    notice, success = capsys.readouterr().out.splitlines()
    assert "old results" in notice
    assert "__pycache__" in notice
    assert success.startswith("Successfully created")


@needs_links
def test_a_link_to_a_folder_counts_as_a_folder(case, tmp_path, capsys):
    (case / "link").symlink_to(tmp_path)
    rescale.create_tar_gz(case)
    assert list(contents()) == ["rod.inp"]
    assert "link" in capsys.readouterr().out.splitlines()[0]


def test_an_earlier_archive_is_not_packed_into_the_new_one():
    Path("rod.inp").write_text("x")
    for output_filename in ("rescale.tar.gz", "rescale.tar.gz", "other.tar.gz", "other.tar.gz"):
        rescale.create_tar_gz(None, output_filename)
        assert list(contents(output_filename)) == ["rod.inp"]


def test_what_a_killed_run_left_is_not_packed():
    Path("rod.inp").write_text("x")
    script = (
        "import os, sys, rescale_rest_api\n"
        "sys.addaudithook(lambda event, _: event == 'os.rename' and os._exit(9))\n"
        "rescale_rest_api.create_tar_gz()\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(TESTS.parent)})
    assert killed.returncode == 9
    assert not Path("rescale.tar.gz").exists()
    assert len(here()) == 2
    rescale.create_tar_gz()
    assert list(contents()) == ["rod.inp"]


def test_of_what_a_killed_run_left_nothing_is_in_the_new_archive():
    Path("rod.inp").write_text("x")
    whole = rescale.create_tar_gz().read_bytes()
    Path(".rescale.tar.gz.part").write_bytes(b"left" * 100_000)  # more than will be written
    assert rescale.create_tar_gz().read_bytes() == whole


def test_the_scripts_which_may_hold_the_token_are_never_packed(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    library = Path(rescale.__file__).read_text(encoding="utf-8")
    for name, text in {
        "rescale_rest_api.py": library, "main.py": "my_token = 'Token secret'\n", "rod.inp": "x", "helper.py": "",
        "my chain.py": "import rescale_rest_api\nrescale_rest_api.create_tar_gz()\nmy_token = 'Token secret'\n",
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "my chain.py"], cwd=folder, check=True, capture_output=True)
    assert sorted(contents(folder / "rescale.tar.gz")) == ["helper.py", "rod.inp"]


def test_what_earlier_jobs_left_here_is_not_packed_but_files_of_such_names_are():
    for name in ("me@rod@1.job", "me@rod@1.desktop", "me@rod@2.job", "me@rod@2.url", "static.job", "x.url"):
        Path(name).write_text(name)
    rescale.create_tar_gz()
    assert list(contents()) == ["static.job", "x.url"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_named_pipe_does_not_block(case, capsys):
    os.mkfifo(case / "pipe")
    rescale.create_tar_gz(case)
    assert list(contents()) == ["rod.inp"]
    assert "pipe" in capsys.readouterr().out


# What is refused; an older archive is then left as it was


@pytest.fixture
def older_archive(clean_surroundings):
    """An archive of an earlier run; afterwards it must be alone and unchanged in the current folder."""
    archive = Path("rescale.tar.gz")
    archive.write_bytes(b"older")
    yield archive
    assert archive.read_bytes() == b"older"
    assert here() == ["rescale.tar.gz"]


def no_such_folder(tmp_path):
    return tmp_path / "no such folder"


def a_file(tmp_path):
    path = tmp_path / "a file"
    path.write_text("x")
    return path


def empty_folder(tmp_path):
    path = tmp_path / "empty folder"
    path.mkdir()
    return path


def only_folders(tmp_path):
    path = tmp_path / "only folders"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "rod.inp").write_text("x")
    return path


def only_scripts(tmp_path):
    path = tmp_path / "only scripts"
    path.mkdir()
    (path / "main.py").write_text("x")
    return path


@pytest.mark.parametrize("make", [no_such_folder, a_file, empty_folder, only_folders, only_scripts])
def test_a_folder_with_nothing_to_pack_is_named(make, tmp_path, older_archive):
    folder = make(tmp_path)
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.create_tar_gz(folder)
    assert str(folder) in str(refused.value)


@needs_links
def test_a_link_to_nowhere_is_named(case, older_archive):
    (case / "lost").symlink_to("nowhere")
    with pytest.raises(rescale.RescaleError, match="lost"):
        rescale.create_tar_gz(case)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no permission bits there")
def test_an_unreadable_file_is_named(clean_surroundings):
    with tempfile.TemporaryDirectory() as folder:  # tmp_path cannot be entered by others
        Path(folder).chmod(0o777)
        os.chdir(folder)
        Path("rescale.tar.gz").write_bytes(b"older")
        Path("rod.inp").write_bytes(b"x" * 100)
        Path("rod.inp").chmod(0)
        me = os.geteuid()
        os.seteuid(me or 65534)  # root may read everything
        try:
            with pytest.raises(rescale.RescaleError) as refused:
                rescale.create_tar_gz()
        finally:
            os.seteuid(me)
        assert "rod.inp" in str(refused.value)
        assert "Permission denied" in str(refused.value)
        assert Path("rescale.tar.gz").read_bytes() == b"older"
        assert here() == ["rescale.tar.gz", "rod.inp"]
        os.chdir(clean_surroundings)


def test_a_file_that_shrinks_while_it_is_read_is_named(case, clean_surroundings, older_archive):
    growing = case / "running.odb"
    with growing.open("wb") as file:
        file.truncate(2 << 30)  # of nothing: takes no room, but seconds to be packed

    def shrink():
        wait_until(lambda: len(list(clean_surroundings.iterdir())) > 1)
        os.truncate(growing, 1000)

    shrinking = threading.Thread(target=shrink)
    shrinking.start()
    with pytest.raises(rescale.RescaleError, match="running.odb"):
        rescale.create_tar_gz(case)
    shrinking.join()


def test_a_full_disk_is_told_and_leaves_the_older_archive(case, older_archive):
    resource = pytest.importorskip("resource")
    (case / "big").write_bytes(os.urandom(300_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(rescale.RescaleError) as refused:
            rescale.create_tar_gz(case)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "rescale.tar.gz" in str(refused.value)


def test_an_archive_that_cannot_be_written_is_named(case):
    with pytest.raises(rescale.RescaleError, match="no folder"):
        rescale.create_tar_gz(case, "no folder/rescale.tar.gz")
