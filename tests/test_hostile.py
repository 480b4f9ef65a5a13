"""What the server sends is input: only RescaleErrors or right results, and nothing outside of the job's folder.

Whatever JSON, status or headers come   a call ends with a right result or a RescaleError; nothing raw is printed
Names and paths                         lead nowhere but into the job's folder; sizes, sums and dates are checked
The key                                 goes to no other host, and comes back in no text
A link to the next page                 leads to no other place; a list without an end is not read for ever
The settings of a hostile job           can be pasted without harm
An error of any length and depth        is told in a screenful
"""

from __future__ import annotations

import ast
import collections
import contextlib
import functools
import io
import json
import math
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

import rescale_rest_api as rescale
from in_memory import JOB_ID, KEY, PLATFORM, SUCCESS, TOKEN, Platform, a_file, a_list, connect, history

ARCHIVE, OUTPUT, LOG = os.urandom(3000), b"1 2 3\n" * 100, b"[2026-01-02T03:04:05Z]: Exited with code 0\n"
FILES = {"arChiv": ("rescale.tar.gz", ARCHIVE), "ouTput": ("sub/x.dat", OUTPUT), "loGloG": ("process_output.log", LOG)}
ACCESS = (PLATFORM, TOKEN)
SETTINGS = ("user_included", "0", {}, "emerald", 1, 1, 1, "xDdRk")
EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "20"))  # more of them for a night of hunting
JOB = {"id": JOB_ID, "name": "job", "projectId": "xDdRk", "jobanalyses": [{
    "analysis": {"code": code, "version": "2022"}, "command": f"{rescale.OURS}true", "envVars": {"LICENSE": "1@host"},
    "inputFiles": [a_file("inPut", "rescale.tar.gz", b"in")],
    "hardware": {"coreType": "emerald", "coresPerSlot": 2, "slots": 1, "walltime": 3},
    "userDefinedLicenseSettings": {"featureSets": [{"features": [{"name": "abaqus", "count": 5}]}]},
} for code in ("abaqus", "user_included")]}
STATUSES, OUTPUTS = f"jobs/{JOB_ID}/statuses/", f"jobs/{JOB_ID}/files/"
HONEST = {  # what an honest platform answers
    **Platform(files=FILES).answers, "jobs/": JOB, f"jobs/{JOB_ID}/": JOB, f"jobs/{JOB_ID}/submit/": {},
    f"jobs/{JOB_ID}/stop/": {}, f"jobs/{JOB_ID}/runs/1/tail/process_output.log": {"lines": ["one", "two"]},
    "files/contents/": a_file("arChiv", *FILES["arChiv"]), "users/me/": {"email": "a@example.com", "maxJobHours": 48},
    "analyses/": a_list({"code": "user_included", "versions": [{"versionCode": "0"}, {"versionCode": "0-gpu"}]}),
    "coretypes/": a_list({"code": "emerald", "cores": [1, 2, 4], "isActive": True}),
    "users/me/projects/": a_list({"id": "xDdRk", "name": "Crash"}),
    **{f"files/{file_id}/contents/": content for file_id, (_, content) in FILES.items()},
}
CALLS = {
    "upload_local_files": ["../rescale.tar.gz"], "job_setup": ["job", "true", *SETTINGS, []], "job_monitor": [JOB_ID],
    "job_submit": ["job", JOB_ID], "job_download": ["job", JOB_ID], "file_previous_job": [JOB_ID],
    "job_settings": [JOB_ID], "check_settings": SETTINGS, "job_stop": [JOB_ID], "chain_overview": [{"job": JOB_ID}],
}

TEXTS = [  # what is put into the place of honest values
    "", " ", "\0", "a\nb", "\x1b[2J\x1b]0;x\x07", "\x9b31m", "\u202e", "\ud800", "é한", "x" * 5000, "..", "../../evil",
    "sub/../../evil", "/evil", "a//b", "sub/..", "C:\\evil", "c:evil", "..\\evil", "\\\\host\\evil", "x/" * 2000 + "x",
    "y" * 300, "job", "rescale.tar.gz/x", ".arChiv.part", "Completed", "Executing", "Stopping", "Failed", "abCdEf",
    "arChiv", "process_output.log", "shared/rescale.tar.gz", "123456789", "-1", "1e9", "nan", "sha512", "f" * 128,
    "0" * 32, f"Token {KEY}", KEY, "ht://[", "2026-01-02T03:04:05Z", "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59", "2026-13-40T99:99:99Z", "?page=2", "https://evil.example/?page=2", "'''\nimport",
]
TEXT = st.sampled_from(TEXTS) | st.text("aZ09 ._-/\\:\n\t\0\x1b\x9b\u202e\ud800é한%?#&='\"", max_size=12)
NUMBERS = st.sampled_from([0, 1, -1, 2, 10**20, 10**400, 1 << 63, 0.5, 1e308, float("nan"), float("inf"), -0.0])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
KEYS = TEXT | st.sampled_from(["results", "next", "id", "status", "lines", "detail"])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
DEEP = functools.reduce(lambda inner, _: [inner], range(800), None)
HEADERS = st.dictionaries(st.sampled_from([
    "Location", "Retry-After", "Content-Range", "Content-Type", "Content-Encoding", "Content-Length", "Set-Cookie",
]), st.sampled_from([
    "", "0", "-1", "9" * 30, "nan", "soon", "bytes 0-1/2", "bytes */*", "bytes 9-1/0", "gzip", "chunked", KEY,
    "text/html", "application/json; charset=none", "\x80", "http://[", "http://[::1", "//", "https://a b/", "http://:1",
    "?" * 3000, "file:///etc/passwd", f"{PLATFORM}:-1/", f"{PLATFORM}/api/v2/x/?{KEY}", "https://evil.example/\x1b[2J",
]), min_size=1, max_size=3)
SPOT = re.compile(r'"(\\.|[^"\\])*"|-?\d+|true|false|null|\[[^][{}]*\]|{[^][{}]*}')  # values without more in them, keys


@st.composite
def bodies(draw, honest):
    """What comes for an honest answer: it, with up to three values or keys replaced or doubled, or any other."""
    if isinstance(honest, bytes):
        return draw(st.sampled_from([honest, honest[:9], honest + b"more", b""]))
    text = json.dumps(draw(st.one_of(*[st.just(honest)] * 3, JSON, st.just(DEEP))))
    for _ in range(draw(st.integers(0, 3))):
        spot = draw(st.sampled_from([*SPOT.finditer(text)] or [re.match("", text)]))
        new = json.dumps(draw(TEXT if text[spot.end() :].startswith(":") else JSON))
        text = text[: spot.start()] + draw(st.sampled_from([new] * 5 + [f"{spot[0]}, {spot[0]}"])) + text[spot.end() :]
    plain, letters = text.encode(), re.sub(r"\\u(\w{4})", lambda code: chr(int(code[1], 16)), text)
    return draw(st.sampled_from([
        *[plain] * 4, plain[: len(plain) // 2], b"\xff\xfe" + plain, b"", letters.encode("utf-8", "surrogatepass"),
        letters.encode("latin-1", "replace"), letters.encode("utf-16", "surrogatepass"),
    ]))


def hostile(call, path, answer, times, asked):
    """A platform that is honest but for the first `times` answers for one path; the paths in `asked` are asked for."""
    honest = Platform(files=FILES)
    honest.answers = HONEST

    def platform(request):
        body = request.body or b""
        collections.deque(iter(lambda: body.read(999), b"") if hasattr(body, "read") else body, 0)  # for its sum
        assert request.url.startswith(f"{PLATFORM}/api/v2/"), request.url
        assert len(asked) < 200, f"{call} does not come to an end"
        asked.append(request.url.partition("/api/v2/")[2].partition("?")[0])
        if asked[-1] == path and asked.count(path) <= times and (len(asked) < 60 or call != "job_monitor"):
            return answer  # a monitor rightly goes on as long as the job does or the line is down
        if asked[-1] == STATUSES and len(asked) < 3 and call in ("job_monitor", "job_submit"):
            return 200, history(*SUCCESS[:3]) if call == "job_monitor" else a_list()
        return honest(request)

    return platform


@pytest.fixture(autouse=True)
def place(tmp_path, clock, monkeypatch):
    """A folder for the examples, beside which nothing may appear, and a clock for few looks and no real waits."""
    set_hypothesis_home_dir(tmp_path / "hypothesis")
    monkeypatch.setattr(clock, "sleep", lambda seconds: setattr(clock, "now", clock.now + 20 * seconds))
    for name in set(os.environ) - {"HOME", "PATH", "PYTEST_CURRENT_TEST"}:
        monkeypatch.delenv(name)  # requests looks through all of them for each request


def run(call, path="", answer=None, times=math.inf):
    """What the call returns, or None for the error that it may end with, what it has printed, and what it asked for."""
    around = Path(tempfile.mkdtemp(dir=Path.cwd().parent))
    here = around / "a" / "here"
    here.mkdir(parents=True)
    (around / "a" / "rescale.tar.gz").write_bytes(ARCHIVE)
    result, told, screen, before, asked = None, "", io.StringIO(), Path.cwd(), []
    connect(hostile(call, path, answer, times, asked))
    os.chdir(here)
    try:
        with contextlib.redirect_stdout(screen):
            result = getattr(rescale, call)(*ACCESS, *CALLS[call])
    except rescale.RescaleError as error:
        told = f"{error}{error!r}"
    os.chdir(before)
    text = screen.getvalue()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text + told)
    assert KEY not in text + told
    left = {path.relative_to(around).as_posix() for path in around.rglob("*") if not path.is_dir()}
    known = r"a/here/(job/.*|job\.(job|desktop|url))|a/(\.rescale\.tar\.gz\.uploaded|rescale\.tar\.gz)"
    assert all(re.fullmatch(known, name, re.DOTALL) for name in left), left
    # A result is of the promised form.
    if result and call in ("upload_local_files", "file_previous_job", "job_setup"):
        entry = {"id": result, "decompress": True} if call == "job_setup" else result[0]
        assert entry == {"id": entry["id"], "decompress": True}
        assert re.fullmatch(r"[\w-]+", entry["id"], re.ASCII)
    if result and call == "job_download":
        assert len(set(result)) == len(result)
        assert all((here / "job") in path.resolve().parents for path in result)
        assert {path.read_bytes() for path in result} <= {ARCHIVE, OUTPUT, LOG, b""}
    if result and call == "job_settings":  # can be pasted
        assert {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(text).body} == result
    shutil.rmtree(around, ignore_errors=True)
    return result, text, set(asked)


@pytest.mark.parametrize("call", CALLS)
def test_whatever_comes_back_the_result_is_right_or_an_error(call):
    result, text, paths = run(call)  # of an honest platform, or what follows would show nothing
    assert result is not None or call in ("job_monitor", "job_submit", "job_stop", "check_settings", "chain_overview")
    assert text
    assert len(paths) >= {"job_monitor": 5, "job_download": 4, "check_settings": 4, "chain_overview": 3}.get(call, 1)

    @settings(max_examples=EXAMPLES * len(paths), deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))
    @given(path=st.sampled_from(sorted(paths)), data=st.data(), headers=st.just({}) | st.just({}) | HEADERS,
           status=st.sampled_from([200] * 9 + [201, 206, 302, 308, 400, 401, 403, 404, 407, 416, 429, 500, 503, 599]),
           times=st.sampled_from([1, 2, 999]))
    def check(path, data, headers, status, times):
        run(call, path, (status, data.draw(bodies(HONEST[path])), headers), times)

    check()


@pytest.mark.parametrize("following", [
    "?page=\ud800", "http://[", "?page=2\0", "?page=" + "9" * 5000, "?" * 100_000, "?page=1&page=2", "?a[]=b", "?=",
    f"{PLATFORM}/api/v2/jobs/abCdEf/files/?page=2", "https://evil.example/?page=2", "?page=2#", 5, [[]], {}, True,
], ids=lambda following: str(following)[:20].encode("ascii", "replace").decode())
def test_a_link_to_the_next_page_leads_to_no_other_place_and_not_round_in_circles_for_ever(following):
    result, *_ = run("file_previous_job", OUTPUTS, (200, {**HONEST[OUTPUTS], "next": following}))
    assert (result is None) == (isinstance(following, str))


def test_an_empty_page_ends_a_list_whatever_it_promises():
    honest, first = Platform(files=FILES), (200, {**HONEST[OUTPUTS], "next": "?page=2"})
    honest.answers = HONEST
    pages = {"1": first, "2": (200, {"results": [], "next": "?page=3"}), "3": first}
    connect(lambda request: pages[request.url[-1]] if OUTPUTS in request.url else honest(request))
    assert rescale.file_previous_job(*ACCESS, "abCdEf")[0]["decompress"]


@pytest.mark.parametrize("body", [
    functools.reduce(lambda inner, _: {"field": inner, "text": "x" * 500}, range(40), ["y" * 5000]), ["z" * 200_000],
    dict.fromkeys(map(str, range(20_000)), "w"), "v" * 200_000,
], ids=["deep", "long", "wide", "a text"])
def test_an_error_of_any_length_and_depth_is_told_in_a_screenful(body):
    connect(lambda request: (400, body))
    with pytest.raises(rescale.RescaleError) as raised:
        rescale.job_stop(*ACCESS, "abCdEf")
    assert len(str(raised.value)) < 3000
