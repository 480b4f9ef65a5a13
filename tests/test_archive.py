"""2. create_tar_gz: what goes into the archive, what never does, and that half an archive is never left behind.

| promise (design, function 2) | test |
|---|---|
| all files directly in a folder, of any name, content and size; other programs can unpack them | any_files |
| sorted, into the current folder, under the name asked for, with the guide's line | are_packed |
| small, the same on any number of cores; mode and date, no user; links as the files they point to | the next two |
| folders in a line of their own; archives, scripts, bookkeeping, pipes stay here | bookkeeping |
| a file with a known key stays here, of any size, plain or UTF-16, wherever the key lies in it | known_key |
| a small file with what scripts and apiconfig write of a key stays here, and no other one does | small_file |
| nothing to pack, and what cannot be packed whole, is named; an older archive stays | the last |

A kill: test_kill.py; a full disk: test_local_files.py
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rescale_rest_api as rescale
from conftest import here, wait_until

KEY = "0123456789abcdef0123456789abcdef01234567"  # of the form that the platform gives
ONE = {"rod.inp": b"*heading\n"}


def packed(archive="rescale.tar.gz"):
    """Names and contents, in their order."""
    with tarfile.open(archive, "r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@functools.lru_cache
def content(kind, size):
    """Lines, which compress well; noise, which does not; blocks of both by turns; or the same again and again."""
    lines = "".join(f"{number}, {number * 0.37:.6E}, 0.000000E+00\n" for number in range(size // 20 + 1)).encode()
    noise = random.Random(size).randbytes(size)
    both = b"".join(part[at : at + 300_000] for at in range(0, size, 600_000) for part in (lines, noise))
    again = noise[:3000] * (size // 3000 + 1)
    return {"lines": lines, "noise": noise, "both": both, "again": again}[kind][:size]


@pytest.fixture
def case(tmp_path):
    """A folder of input files that is not the current one."""
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "rod.inp").write_bytes(ONE["rod.inp"])
    return tmp_path / "case"


names = st.text("aZ09._-=~ '\"$*?;:\\\n\té긴😀", min_size=1, max_size=60)
if sys.platform == "linux":  # elsewhere a name is a text
    names |= st.binary(min_size=1, max_size=60).filter(lambda name: not {0, 47} & set(name)).map(os.fsdecode)
names = names.filter(lambda name: name not in (".", ".."))
sizes = st.sampled_from([511, 512, *(n * rescale.CHUNK + more for n in (1, 3) for more in (-1536, -1024, 0, 7))])
contents = st.binary(max_size=600) | st.builds(content, st.sampled_from(["lines", "noise", "both"]), sizes)


@settings(max_examples=20, deadline=None, database=None)
@given(files=st.dictionaries(names, contents, min_size=1, max_size=5))
def test_any_files_come_out_as_they_went_in_and_other_programs_can_unpack_them(files):
    with tempfile.TemporaryDirectory() as case, tempfile.TemporaryDirectory() as out:
        for name, text in files.items():
            Path(case, name).write_bytes(text)
        subprocess.run(["tar", "-xzf", rescale.create_tar_gz(case), "-C", out], check=True)
        assert {path.name: path.read_bytes() for path in Path(out).iterdir()} == files


@pytest.mark.parametrize("kind", [None, str, Path], ids=["the current folder", "another one", "its path"])
@pytest.mark.parametrize("name", ["rescale.tar.gz", "other.tar.gz"])
def test_the_files_of_a_folder_are_packed_sorted_into_the_current_one(kind, name, case, clean_surroundings, capsys):
    folder = case if kind else clean_surroundings
    for file in ("b.inp", "a.inp", ".hidden", "C.inp", "rod.inp"):
        (folder / file).write_text(file)
    for _ in range(2):  # the earlier archive is not packed
        assert rescale.create_tar_gz(kind and kind(folder), name) == clean_surroundings / name
        assert list(packed(name)) == [".hidden", "C.inp", "a.inp", "b.inp", "rod.inp"]
    assert f"\nSuccessfully created {name} in {clean_surroundings}\n" in "\n" + capsys.readouterr().out
    assert len(list(case.iterdir())) == (5 if kind else 1)


@pytest.mark.parametrize(("kind", "most"), [("lines", 0.3), ("both", 0.8), ("noise", 1.005), ("again", 0.012)])
def test_an_archive_is_small_and_the_same_on_any_number_of_cores(kind, most, case, monkeypatch):
    (case / "mesh.inp").write_bytes(content(kind, 3 << 20))
    archives = set()
    for cores in (1, 1, 3, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        archives.add(rescale.create_tar_gz(case).read_bytes())
    assert [len(archive) < most * (3 << 20) for archive in archives] == [True]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_is_packed_as_the_file_that_it_points_to_with_mode_and_date_and_without_the_user(case, tmp_path):
    (tmp_path / "material.lib").write_bytes(b"steel")
    (tmp_path / "material.lib").chmod(0o755)
    os.utime(tmp_path / "material.lib", (1e9, 1e9))
    (case / "link.lib").symlink_to(tmp_path / "material.lib")
    os.link(case / "rod.inp", case / "hard.inp")
    rescale.create_tar_gz(case)
    assert packed() == {**ONE, "hard.inp": b"*heading\n", "link.lib": b"steel"}
    with tarfile.open("rescale.tar.gz") as tar:
        one = tar.getmember("link.lib")
    assert (one.mode, one.mtime, one.uid, one.gid, one.uname, one.gname) == (0o755, 1e9, 0, 0, "", "")


@pytest.mark.skipif(os.name == "nt", reason="no pipes there")
def test_scripts_bookkeeping_pipes_and_folders_stay_here_and_are_named_and_files_of_such_names_go_in(tmp_path):
    ours = [f"me@rod@20261125-101112.{kind}" for kind in ("job", "log", "desktop", "url", "rescale-001")]
    ours += [f".{name}" for name in ("me@rod@20261125-101112.chain", "x.tar.gz.uploaded", "x.tar.gz.part", "x.1.job")]
    ours += ["one.job", "one.desktop", "two.job", "two.url"]
    own = ["list.uploaded", "mesh.part", "me@rod.log", "one.log", "static.job", "a.py", "x.url", "y.desktop"]
    named = ["pipe", "rescale_failed.tar.gz", "rescale_rest_api.py", "my chain.py"]
    for name in ours + own + named[1:]:
        Path(name).write_text(name)
    os.mkfifo("pipe")
    Path("old results").mkdir()
    Path("link").symlink_to(tmp_path)
    shutil.copy(rescale.__file__, "rescale_rest_api.py")
    Path("my chain.py").write_text("import rescale_rest_api\nrescale_rest_api.create_tar_gz()\n")
    ran = subprocess.run([sys.executable, "my chain.py"], capture_output=True, text=True, check=True)
    assert list(packed()) == sorted(own)
    folders, others, _ = ran.stdout.splitlines()
    assert all(f"{name}/" in folders and name not in others for name in ("old results", "link"))
    assert all(name in others and name not in folders for name in named)


@pytest.mark.parametrize(("known", "length"), [("use", 40), ("use", 300), ("environment", 9), ("profile", 40)])
@pytest.mark.parametrize("code", ["utf-8", "utf-16-le", "utf-16-be"])
def test_a_known_key_is_found_in_a_file_of_any_size_wherever_it_lies(known, length, code, case, monkeypatch, capsys):
    key = ("eyJh-Bc9.Zq_7" * 30)[:length]  # of no common form, so that only what is known of it tells
    monkeypatch.setenv("RESCALE_API_KEY", f"Token {key}" if known == "environment" else "")
    if known == "use":
        rescale.platform_my_token("https://kr.rescale.com", f"Bearer {key}")
    elif known == "profile":
        (Path.home() / ".config" / "rescale").mkdir(parents=True)
        (Path.home() / ".config/rescale/apiconfig").write_text(f"[default]\napikey = no\n[eu]\napi_key = '{key}'\n")
    monkeypatch.setattr(rescale, "KEY_FILE", 1000)
    monkeypatch.setattr(rescale, "CHUNK", 1000)
    places = [0, *range(960, 1010, 7), *range(4900, 5010, 7), 9_000]  # also across what is read at a time
    for start in places:
        (case / f"chain {start}.py~").write_bytes(b"1" * start + key.encode(code) + b"\n" * 900)
    (case / "upper").write_bytes(key.upper().encode(code))
    rescale.create_tar_gz(case)
    assert list(packed()) == ["rod.inp", "upper"]
    assert capsys.readouterr().out.count(".py~") == len(places)


HOLD_A_KEY = [
    f"my_token = 'Token {KEY}'", f"Authorization: Token {KEY.upper()}", f"apikey={KEY}", f"TOKEN\t{KEY};",
    f"[default]\napikey = '{KEY}'", f'{{"apikey": "{KEY}"}}', f"export RESCALE_API_KEY={KEY}", f"token:\r\n{KEY}",
    "1" * (rescale.KEY_FILE - 46) + f"token {KEY}",
]
HOLD_NONE = [
    f"{KEY}  mesh.inp", f"commit {KEY}", f"Token {KEY}ab", f"Token {KEY[:-1]}", f"The token is in the vault.\n{KEY}",
    f"apikey = <key>, sha1 {KEY}", f"apikey {KEY[:-1]}g", "Token " * 9, "1" * (rescale.KEY_FILE - 45) + f"token {KEY}",
]


def test_a_small_file_with_such_a_word_before_a_key_stays_here_and_no_check_sum_does(case):
    for number, text in enumerate(HOLD_A_KEY + HOLD_NONE, 1):
        (case / f"{'key' if text in HOLD_A_KEY else 'none'} {number}").write_bytes(text.encode())
    (case / "key as PowerShell writes").write_bytes(HOLD_A_KEY[0].encode("utf-16"))
    rescale.create_tar_gz(case)
    assert list(packed()) == [*(f"none {number}" for number in range(10, 19)), "rod.inp"]


def meanwhile(change):
    """Do it to this file when its packing has begun."""
    begun = lambda: any(part.stat().st_size for part in Path().glob(".*.part"))  # noqa: E731
    return lambda path: threading.Thread(target=lambda: (wait_until(begun), change(path))).start()


@pytest.mark.skipif(sys.platform != "linux", reason="needs its /proc")
@pytest.mark.parametrize(("trouble", "named"), [
    (lambda path: shutil.rmtree(path.parent), "case"),
    (lambda path: (shutil.rmtree(path.parent), path.parent.touch()), "case"),
    (Path.unlink, "case"), (lambda path: (path.unlink(), path.mkdir()), "case.*rod.inp/"),
    (lambda path: path.write_text(f"Token {KEY}"), "case.*rod.inp"), (meanwhile(Path.touch), "rod.inp"),
    (meanwhile(lambda path: os.truncate(path, 50 << 20)), "rod.inp"),
    (meanwhile(lambda path: os.truncate(path, 9)), "rod.inp"),
    (lambda path: path.with_name("link").symlink_to("nowhere"), "link"),
    (lambda path: path.with_name("link").symlink_to("/proc/self/mem"), "link"),  # not even for root
], ids=["no folder", "a file", "nothing in it", "only a folder in it", "only a key in it", "a file is rewritten",
        "it grows", "it shrinks", "a link to nowhere", "not to be read"])
def test_what_cannot_be_packed_whole_or_is_nothing_is_named_and_the_older_archive_stays(trouble, named, case):
    Path("rescale.tar.gz").write_bytes(b"older")
    os.truncate(case / "rod.inp", 40 << 20)  # of nothing: takes no room, but some time to be packed
    trouble(case / "rod.inp")
    with pytest.raises(rescale.RescaleError, match=named):
        rescale.create_tar_gz(case)
    assert (Path("rescale.tar.gz").read_bytes(), here()) == (b"older", ["rescale.tar.gz"])
