"""2. create_tar_gz: what goes into the archive, what never does, and that half an archive is never left behind."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import TESTS, here, wait_until

KEY = "0123456789abcdef0123456789abcdef01234567"  # of the form that the platform gives
needs_links = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


def contents(archive="rescale.tar.gz"):
    with tarfile.open(archive, "r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def members(archive="rescale.tar.gz"):
    with tarfile.open(archive, "r:gz") as tar:
        return {member.name: member for member in tar}


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
    assert rescale.create_tar_gz() == clean_surroundings / "rescale.tar.gz"
    assert contents() == {name: name.encode() for name in (".hidden", "C.inp", "a.inp", "b.inp")} | {"empty": b""}
    assert list(members()) == sorted(members())
    assert capsys.readouterr().out == f"Successfully created rescale.tar.gz in {clean_surroundings}\n"


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", ["rescale.tar.gz", "other.tar.gz"])
def test_another_folder_is_packed_into_the_current_one(kind, name, case, clean_surroundings, capsys):
    assert rescale.create_tar_gz(kind(case), name) == clean_surroundings / name
    assert contents(name) == {"rod.inp": b"*heading\n"}
    assert [path.name for path in case.iterdir()] == ["rod.inp"]
    assert capsys.readouterr().out == f"Successfully created {name} in {clean_surroundings}\n"


@pytest.mark.parametrize(
    "name", ["with blanks.inp", "한글 이름.inp", "-rf", "--checkpoint=1", "it's \"quoted\"", "$HOME", "긴" * 80]
)
def test_any_name_survives(name, case):
    (case / name).write_bytes(b"content")
    rescale.create_tar_gz(case)
    assert contents() == {"rod.inp": b"*heading\n", name: b"content"}


def deck(size):
    """What compresses well; several blocks of different lines."""
    return "".join(f"{number}, {number * 0.37:.6E}, 0.000000E+00\n" for number in range(size // 20)).encode()[:size]


def mixed(size):
    """Blocks that compress and blocks that do not, by turns."""
    return b"".join(deck(300_000) + random.randbytes(300_000) for _ in range(size // 600_000 + 1))[:size]


@pytest.mark.parametrize("content", [deck, random.randbytes, mixed])
@pytest.mark.parametrize("size", [1, 511, 512, (5 << 20) + 1])
def test_a_file_of_any_size_survives_and_other_programs_can_unpack_it(content, size, case):
    (case / "한글.bin").write_bytes(content(size))
    rescale.create_tar_gz(case)
    subprocess.run(["gzip", "-t", "rescale.tar.gz"], check=True)
    Path("out").mkdir()
    subprocess.run(["tar", "-xzf", "rescale.tar.gz", "-C", "out"], check=True)
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == {
        path.name: path.read_bytes() for path in case.iterdir()
    }


def test_what_does_not_compress_is_stored_and_what_does_gets_small(case):
    path, size = case / "result.odb", 4 << 20
    path.write_bytes(random.randbytes(size))
    rescale.create_tar_gz(case)
    assert Path("rescale.tar.gz").stat().st_size < 1.001 * size + 10_240  # tar rounds up to that
    for content, most in ((deck(size), 0.3), (mixed(size), 0.8)):  # of one half each
        path.write_bytes(content)
        rescale.create_tar_gz(case)
        assert Path("rescale.tar.gz").stat().st_size < most * size


def test_the_same_files_give_the_same_archive_on_any_number_of_cores(case, monkeypatch):
    (case / "mesh.inp").write_bytes(mixed(6 << 20))
    archives = []
    for cores in (1, 1, 3, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        archives.append(rescale.create_tar_gz(case).read_bytes())
    assert [archive == archives[0] for archive in archives] == [True] * 4


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


def test_folders_are_left_out_and_named_on_a_line_of_their_own(case, tmp_path, capsys):
    for name in ("old results", "__pycache__"):
        (case / name).mkdir()
        (case / name / "file").write_text("x")
    (case / "main.py").write_text("x")
    if os.name != "nt":
        (case / "link").symlink_to(tmp_path)
    rescale.create_tar_gz(case)
    assert contents() == {"rod.inp": b"*heading\n"}
    folders, others, success = capsys.readouterr().out.splitlines()
    assert [name in folders for name in ("__pycache__/", "old results/", "main.py")] == [True, True, False]
    assert os.name == "nt" or "link/" in folders
    assert "main.py" in others
    assert success.startswith("Successfully created")


def test_an_earlier_archive_is_not_packed_into_the_new_one():
    Path("rod.inp").write_text("x")
    Path("rescale_failed.tar.gz").write_text("of a job that failed")
    for output_filename in ("rescale.tar.gz", "rescale.tar.gz", "other.tar.gz", "other.tar.gz"):
        rescale.create_tar_gz(None, output_filename)
        assert list(contents(output_filename)) == ["rod.inp"]


def test_what_a_killed_run_left_is_neither_packed_nor_part_of_the_new_archive():
    Path("rod.inp").write_text("x")
    whole = rescale.create_tar_gz().read_bytes()
    Path("rescale.tar.gz").unlink()
    script = (
        "import os, sys, rescale_rest_api\n"
        "sys.addaudithook(lambda event, _: event == 'os.rename' and os._exit(9))\n"
        "rescale_rest_api.create_tar_gz()\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(TESTS.parent)})
    assert killed.returncode == 9
    assert len(here()) == 2
    [part] = Path().glob(".*")
    part.write_bytes(b"left" * 100_000)  # more than will be written
    assert rescale.create_tar_gz().read_bytes() == whole
    assert here() == ["rescale.tar.gz", "rod.inp"]


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


def test_the_bookkeeping_of_chains_and_jobs_stays_here_and_files_of_such_names_go_in():
    chain = [f"me@rod@20261125-101112.{kind}" for kind in ("job", "log", "desktop", "url")]
    jobs = ["one.job", "one.desktop", "two.job", "two.url", ".rescale.tar.gz.uploaded", ".rescale.tar.gz.part"]
    jobs += [".one.AbCdEf.GhIjKl.job", ".me@rod@20261125-101112.AbCdEf.GhIjKl.job"]  # replaced by other jobs
    own = ["static.job", "static.log", "x.url", "y.desktop", "me@rod.log", "mesh.part", "list.uploaded", "one.log"]
    for name in chain + jobs + own:
        Path(name).write_text(name)
    rescale.create_tar_gz()
    assert list(contents()) == sorted(own)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_named_pipe_does_not_block(case, capsys):
    os.mkfifo(case / "pipe")
    rescale.create_tar_gz(case)
    assert list(contents()) == ["rod.inp"]
    assert "pipe" in capsys.readouterr().out


# Files that hold a key

READ = 1 << 18  # bytes that are read at a time; a key may lie across
UTF16 = {"utf-8": 1, "utf-16-le": 2, "utf-16-be": 2}
WORDED = f"my_token = 'Token {KEY}'"  # known by the word before it, whatever has been called before


@pytest.mark.parametrize("code", UTF16)
@pytest.mark.parametrize(
    "before", [0, READ - 512 - 30, READ - 30, READ, 3 * READ - 1, (5 << 20) + 7],
    ids=["at the start", "headers before", "across reads", "second read", "odd", "far behind"],
)
def test_a_key_is_found_wherever_it_is_before_anything_else_was_called(code, before, case, capsys):
    filler = (deck(before + 40) if before else b"")[:before]
    (case / "chain.py~").write_bytes(filler + WORDED.encode(code) + b"\n" * READ)
    rescale.create_tar_gz(case)
    assert list(contents()) == ["rod.inp"]
    assert "chain.py~" in capsys.readouterr().out


@pytest.mark.parametrize("code", UTF16)
def test_a_key_is_found_across_reads_byte_by_byte(code, case):
    """At every place where the border can lie."""
    text = WORDED.encode(code)
    for index in range(0, len(text), 5):
        (case / f"chain{index:03}.bak").write_bytes(b"1" * (READ - index) + text)
    rescale.create_tar_gz(case)
    assert list(contents()) == ["rod.inp"]


@pytest.mark.parametrize("text", [
    f"Token {KEY}", f"Authorization: Token {KEY.upper()}", f"apikey={KEY}", f"[default]\napikey = '{KEY}'",
    f'{{"API_KEY": "{KEY}"}}', f"export RESCALE_API_KEY={KEY}", f"TOKEN\t{KEY};", f"token:\r\n{KEY}",
])
def test_forty_hexadecimal_characters_behind_such_a_word_are_a_key(text, case):
    (case / "notes.txt").write_text(text)
    rescale.create_tar_gz(case)
    assert list(contents()) == ["rod.inp"]


@pytest.mark.parametrize("text", [
    f"{KEY}  mesh.inp", f"commit {KEY}", f"Token {KEY}ab", f"Token {KEY[:-1]}", f"The token is in the vault.\n{KEY}",
    f"apikey = <your API key>, sha1 {KEY}", f"API_KEY {KEY[:-1]}g", "Token " * 9,
])
def test_a_check_sum_or_a_word_alone_is_no_key(text, case):
    (case / "notes.txt").write_text(text)
    rescale.create_tar_gz(case)
    assert sorted(contents()) == ["notes.txt", "rod.inp"]


ODD_KEY = "eyJh-Bc9.Zq_7" * 3  # of a form of its own, so that only what is known of it tells


def in_use(key):
    rescale.platform_my_token("https://kr.rescale.com", f"Bearer {key}")


def in_the_environment(key):
    os.environ["RESCALE_API_KEY"] = f"Bearer {key}"


def in_another_profile(key):
    folder = Path.home() / ".config" / "rescale"
    folder.mkdir(parents=True)
    (folder / "apiconfig").write_text(f"[default]\napikey = none\n[eu]\napibaseurl = x\napikey = '{key}'\n")


@pytest.mark.parametrize("known", [in_use, in_the_environment, in_another_profile])
@pytest.mark.parametrize("code", UTF16)
def test_a_key_that_this_machine_knows_is_found_without_any_word(known, code, case, monkeypatch):
    monkeypatch.setenv("RESCALE_API_KEY", "")  # which is undone at the end, too
    known(ODD_KEY)
    for name, key in (("as it is", ODD_KEY), ("upper case", ODD_KEY.upper())):
        (case / name).write_bytes(deck(READ - 20) + key.encode(code))
    rescale.create_tar_gz(case)
    assert list(contents()) == ["rod.inp"]


def test_a_key_longer_than_usual_is_found_across_reads(case):
    key = "eyJh-Bc9.Zq_7" * 90
    in_use(key)
    for index in range(0, len(key), 200):
        (case / f"copy{index}").write_bytes(b"1" * (READ - index) + key.encode())
    rescale.create_tar_gz(case)
    assert list(contents()) == ["rod.inp"]


def test_where_the_only_file_holds_a_key_nothing_is_packed(capsys):
    Path("notes.txt").write_text(WORDED)
    with pytest.raises(rescale.RescaleError):
        rescale.create_tar_gz()
    assert here() == ["notes.txt"]
    assert "notes.txt" in capsys.readouterr().out


# What is refused; an older archive is then left as it was


@pytest.fixture
def older_archive(clean_surroundings):
    """An archive of an earlier run; afterwards it must be alone and unchanged in the current folder."""
    archive = Path("rescale.tar.gz")
    archive.write_bytes(b"older")
    yield archive
    assert archive.read_bytes() == b"older"
    assert here() == ["rescale.tar.gz"]


@pytest.mark.parametrize("holds", [None, "a file", "nothing", "folder/rod.inp", "main.py"])
def test_a_folder_with_nothing_to_pack_is_named(holds, tmp_path, older_archive):
    folder = tmp_path / "input files"
    if holds == "a file":
        folder.write_text("x")
    elif holds:
        (folder / holds).parent.mkdir(parents=True)
        if holds != "nothing":
            (folder / holds).write_text("x")
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.create_tar_gz(folder)
    assert str(folder) in str(refused.value)


@needs_links
def test_a_link_to_nowhere_is_named(case, older_archive):
    (case / "lost").symlink_to("nowhere")
    with pytest.raises(rescale.RescaleError, match="lost"):
        rescale.create_tar_gz(case)


@contextlib.contextmanager
def as_anybody():
    """Root may read everything."""
    me = os.geteuid()
    os.seteuid(me or 65534)
    try:
        yield
    finally:
        os.seteuid(me)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no permission bits there")
def test_an_unreadable_file_is_named(clean_surroundings):
    with tempfile.TemporaryDirectory() as folder:  # tmp_path cannot be entered by others
        Path(folder).chmod(0o777)
        os.chdir(folder)
        Path("rescale.tar.gz").write_bytes(b"older")
        Path("rod.inp").write_bytes(b"x" * 100)
        Path("rod.inp").chmod(0)
        with as_anybody(), pytest.raises(rescale.RescaleError, match="rod.inp.*Permission denied"):
            rescale.create_tar_gz()
        assert Path("rescale.tar.gz").read_bytes() == b"older"
        assert here() == ["rescale.tar.gz", "rod.inp"]
        os.chdir(clean_surroundings)


def shrink(path):
    os.truncate(path, 1000)


def grow(path):
    with path.open("ab") as file:
        file.write(b"x")


def rewrite(path):
    with path.open("r+b") as file:
        file.write(b"x")


@pytest.mark.parametrize("change", [shrink, grow, rewrite])
def test_a_file_that_changes_while_it_is_read_is_named(change, case, clean_surroundings, older_archive):
    running = case / "running.odb"
    with running.open("wb") as file:
        file.truncate(100 << 20)  # of nothing: takes no room, but some time to be packed
    changing = threading.Thread(target=lambda: (wait_until(is_being_read), change(running)))

    def is_being_read():
        return any(path.stat().st_size for path in clean_surroundings.glob(".*.part"))

    changing.start()
    with pytest.raises(rescale.RescaleError, match="running.odb"):
        rescale.create_tar_gz(case)
    changing.join()


def test_a_full_disk_is_told_and_leaves_the_older_archive(case, older_archive):
    resource = pytest.importorskip("resource")
    (case / "big").write_bytes(random.randbytes(300_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(rescale.RescaleError, match=r"rescale\.tar\.gz"):
            rescale.create_tar_gz(case)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_archive_that_cannot_be_written_is_named(case):
    with pytest.raises(rescale.RescaleError, match="no folder"):
        rescale.create_tar_gz(case, "no folder/rescale.tar.gz")
