"""Answers that no platform gives: only RescaleErrors or right results, and nothing outside of the job's folder."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

import rescale_rest_api as rescale
from in_memory import JOB_ID, KEY, PLATFORM, SUCCESS, TOKEN, Platform, a_file, a_list, connect, history

ARCHIVE, OUTPUT, LOG = os.urandom(3000), b"1 2 3\n" * 100, b"[2026-01-02T03:04:05Z]: Exited with code 0\n"
FILES = {
    "arChiv": ("rescale.tar.gz", ARCHIVE), "ouTput": ("sub/out.dat", OUTPUT), "loGloG": ("process_output.log", LOG),
}
CONTENTS = {file_id: content for file_id, (_, content) in FILES.items()}
ACCESS = (PLATFORM, TOKEN)
SETTINGS = ("user_included", "0", {}, "emerald", 1, 1, 1, "xDdRk")
ENOUGH = 200  # requests after which a call that waits for nothing counts as endless
EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "30"))  # more of them for a night of hunting
JOB = {
    "id": JOB_ID, "name": "job", "projectId": "xDdRk",
    "jobanalyses": [
        {
            "analysis": {"code": code, "version": "2022"}, "command": f"{rescale.OURS}true",
            "envVars": {"LICENSE": "27000@host"}, "inputFiles": [a_file("inPut", "rescale.tar.gz", b"in")],
            "hardware": {"coreType": "emerald", "coresPerSlot": 2, "slots": 1, "walltime": 3},
            "userDefinedLicenseSettings": {"featureSets": [{"features": [{"name": "abaqus", "count": 5}]}]},
        }
        for code in ("abaqus", "user_included")
    ],
}
# What an honest platform answers.
HONEST = {
    **Platform(files=FILES).answers,
    "users/me/": {"email": "a@example.com", "maxJobHours": 48},
    "analyses/": a_list({"code": "user_included", "versions": [{"versionCode": "0"}, {"versionCode": "0-gpu"}]}),
    "coretypes/": a_list({"code": "emerald", "cores": [1, 2, 4], "isActive": True}),
    "users/me/projects/": a_list({"id": "xDdRk", "name": "Crash"}),
    "files/contents/": a_file("arChiv", *FILES["arChiv"]),
    "jobs/": JOB, "jobs/abCdEf/": JOB, "jobs/abCdEf/submit/": {}, "jobs/abCdEf/stop/": {},
    "jobs/abCdEf/runs/1/tail/process_output.log": {"fileType": "text", "lines": ["one", "two"]},
}
LOOKS = ["jobs/abCdEf/", "jobs/abCdEf/statuses/", "jobs/abCdEf/files/"]
CALLS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "upload_local_files": (lambda: rescale.upload_local_files(*ACCESS, "../rescale.tar.gz"), ["files/contents/"]),
    "job_setup": (lambda: rescale.job_setup(*ACCESS, "job", "true", *SETTINGS, []), ["jobs/"]),
    "job_submit": (lambda: rescale.job_submit(*ACCESS, "job", JOB_ID), [LOOKS[1], "jobs/abCdEf/submit/"]),
    "job_monitor": (
        lambda: rescale.job_monitor(*ACCESS, JOB_ID), [*LOOKS, "jobs/abCdEf/runs/1/tail/process_output.log"]),
    "job_download": (lambda: rescale.job_download(*ACCESS, "job", JOB_ID), LOOKS),
    "file_previous_job": (lambda: rescale.file_previous_job(*ACCESS, JOB_ID), LOOKS),
    "job_settings": (lambda: rescale.job_settings(*ACCESS, JOB_ID), ["jobs/abCdEf/"]),
    "check_settings": (
        lambda: rescale.check_settings(*ACCESS, *SETTINGS),
        ["users/me/", "analyses/", "coretypes/", "users/me/projects/"]),
    "job_stop": (lambda: rescale.job_stop(*ACCESS, JOB_ID), ["jobs/abCdEf/stop/"]),
    "chain_overview": (lambda: rescale.chain_overview(*ACCESS, {"job": JOB_ID}), LOOKS),
}

# What is put into the place of honest values.
TEXTS = [
    "", " ", "\0", "a\nb", "\x1b[2J\x1b]0;x\x07", "\x9b31m", "\r", "\u202e", "\ud800", "\udcff", "é한\U0001f600",
    "x" * 5000, "..", ".", "../evil", "../../evil", "sub/../../evil", "/evil", "//evil", "a//b", "./x", "sub/..",
    "C:\\evil", "c:evil", "..\\evil", "\\\\host\\evil", "a\0b", "x/" * 2000 + "x", "y" * 300, "job",
    "rescale.tar.gz/x", ".arChiv.part", "~/evil", "con", "a:b", "%2e%2e/evil",
    "Completed", "Executing", "Stopping", "Failed", "abCdEf", "arChiv", "process_output.log", "shared/rescale.tar.gz",
    "123456789", "-1", "1e999", "nan", "True", "sha512", "md5", "f" * 128, "0" * 32,
    "2026-01-02T03:04:05Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-13-40T99:99:99Z",
    "?page=2", "?page=1", "https://evil.example/api/v2/jobs/?page=2", "?page=\ud800", "?%", "?page_size=&page=",
    "http://[", f"Token {KEY}", KEY, "x\nimport os\n", "'''\nimport os\n'''",
]
TEXT = st.sampled_from(TEXTS) | st.text("aZ09 ._-/\\:\n\t\0\x1b\x9b\u202e\ud800é한%?#&='\"", max_size=12)
NUMBERS = st.sampled_from([0, 1, -1, 2, 10**20, 10**400, 1 << 63, 0.5, 1e308, float("nan"), float("inf"), -0.0])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        TEXT | st.sampled_from(["results", "next", "id", "status", "lines", "detail"]), inner, max_size=3),
    max_leaves=8,
)
DEEP: Any = None
for _ in range(800):
    DEEP = [DEEP]


def places(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values in a tree but its root."""
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield (*path, key)
        yield from places(tree[key], (*path, key))


@st.composite
def spoilt(draw, honest: Any) -> Any:
    """An honest answer of which one to three values are removed, replaced or doubled."""
    tree = copy.deepcopy(honest)
    for _ in range(draw(st.integers(1, 3))):
        all_places = list(places(tree))
        if not all_places:
            return draw(JSON)
        names = sorted({str(place[-1]) for place in all_places})  # all fields alike, however often they occur
        name = draw(st.sampled_from(names))
        *above, key = draw(st.sampled_from([place for place in all_places if str(place[-1]) == name]))
        parent = tree
        for step in above:
            parent = parent[step]
        action = draw(st.sampled_from(["replace"] * 4 + ["remove", "double"]))
        if action == "replace":
            parent[key] = draw(SCALARS | JSON)
        elif action == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
    return tree


@st.composite
def bodies(draw, honest: Any) -> bytes:
    """What comes over the line for it."""
    tree = draw(st.one_of(spoilt(honest), spoilt(honest), spoilt(honest), JSON, st.just(DEEP)))
    plain, text = json.dumps(tree).encode(), json.dumps(tree, ensure_ascii=False)
    return draw(st.sampled_from([
        *[plain] * 4, text.encode("utf-8", "surrogatepass"), text.encode("latin-1", "replace"),
        text.encode("utf-16", "surrogatepass"), plain[: len(plain) // 2], b"\xff\xfe" + plain, b"", b"null",
    ]))


class Enough(BaseException):
    """Ends a monitor, which rightly goes on as long as the job does or the line is down."""


class Hostile(Platform):
    """Honest but for the answers that `spoil` gives for one path."""

    def __init__(self, path: str, spoil: Callable[[], tuple], times: float, call: str) -> None:
        super().__init__(files=FILES)
        self.answers = HONEST
        self.path, self.spoil, self.times, self.call = path, spoil, times, call
        self.requests = 0

    def __call__(self, request: requests.PreparedRequest) -> tuple:
        self.requests += 1
        assert request.url.startswith(f"{PLATFORM}/api/v2/"), request.url
        if self.requests > 60 and self.call == "job_monitor":
            raise Enough
        assert self.requests < ENOUGH, f"{self.call} does not come to an end"
        path = request.url.partition("/api/v2/")[2].partition("?")[0]
        if path == self.path and self.times > 0:
            self.times -= 1
            return self.spoil()
        if path == "jobs/abCdEf/statuses/" and self.requests < 3 and self.call in ("job_monitor", "job_submit"):
            return 200, history(*SUCCESS[:3]) if self.call == "job_monitor" else a_list()
        return super().__call__(request)


COUNTER = itertools.count()
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture(autouse=True)
def place(tmp_path, clock, monkeypatch):
    """A folder for the examples, beside which nothing may appear, and a clock for few looks and no real waits."""
    set_hypothesis_home_dir(tmp_path / "hypothesis")
    monkeypatch.setattr(clock, "sleep", lambda seconds: setattr(clock, "now", clock.now + 20 * seconds))
    for name in list(os.environ):
        if name not in ("HOME", "PATH", "PYTEST_CURRENT_TEST"):
            monkeypatch.delenv(name)  # requests looks through all of them for each request


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def run(call: str, platform: Hostile) -> tuple[Any, str]:
    """What the call returns, or None for the error that it may end with, and what it has printed."""
    around = Path.cwd().parent / f"example{next(COUNTER)}"
    here = around / "a" / "here"
    here.mkdir(parents=True)
    (around / "a" / "rescale.tar.gz").write_bytes(ARCHIVE)
    connect(platform)
    result, told, screen, before = None, "", io.StringIO(), Path.cwd()
    os.chdir(here)
    try:
        with contextlib.redirect_stdout(screen):
            result = CALLS[call][0]()
    except Enough:
        pass
    except rescale.RescaleError as error:
        told = f"{error}{error!r}"
    finally:
        os.chdir(before)
    text = screen.getvalue()
    assert not RAW.search(text + told)
    assert KEY not in text + told
    known = r"a/here/(job/|job\.(job|desktop|url)$|\.job\.abCdEf\.job$)|a/\.rescale\.tar\.gz\.uploaded$"
    assert [name for name in written(around) if not re.match(known, name)] == ["a/rescale.tar.gz"]
    if result is not None:
        assert_right(call, result, text, here)
    shutil.rmtree(around, ignore_errors=True)
    return result, text


def assert_right(call: str, result: Any, text: str, here: Path) -> None:
    """A result of the promised form."""
    if call in ("upload_local_files", "file_previous_job"):
        assert len(result) == 1
        assert re.fullmatch(r"[\w-]+", result[0]["id"], re.ASCII)
        assert result[0]["decompress"] is True
    if call == "job_setup":
        assert re.fullmatch(r"[\w-]+", result, re.ASCII)
    if call == "job_download":
        assert len(set(result)) == len(result) > 0
        assert all((here / "job") in path.resolve().parents and path.is_file() for path in result)
        for path in result:
            assert not path.stat().st_size or path.read_bytes() in CONTENTS.values()
    if call == "job_settings":
        lines = ast.parse(text).body
        assert all(isinstance(line, ast.Assign) for line in lines)
        assert {line.targets[0].id: ast.literal_eval(line.value) for line in lines} == result


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.mark.parametrize("call", CALLS)
def test_an_honest_platform_gets_a_right_result(call):
    """Or the tests below would show nothing."""
    result, text = run(call, Hostile("", lambda: (500, b""), 0, call))

    assert result is not None or call in ("job_monitor", "job_submit", "job_stop", "check_settings", "chain_overview")
    assert text


@pytest.mark.parametrize(("call", "path"), [(call, path) for call, (_, paths) in CALLS.items() for path in paths])
def test_whatever_json_comes_back_the_result_is_right_or_an_error(call, path):
    @bounded(EXAMPLES)
    @given(body=bodies(HONEST[path]), times=st.sampled_from([1, 2, math.inf]),
           status=st.sampled_from([200, 200, 200, 201, 400, 503]))
    def hostile(body, times, status):
        run(call, Hostile(path, lambda: (status, body), times, call))

    hostile()


@pytest.mark.parametrize("call", CALLS)
def test_whatever_error_comes_back_it_ends_as_an_error_without_anything_raw(call):
    @bounded(EXAMPLES // 2)
    @given(body=bodies({"detail": "x", "jobanalyses": [{"hardware": {"walltime": ["y", "z"]}}]}),
           status=st.sampled_from([400, 401, 403, 404, 409, 429, 500, 503, 302, 407, 418, 599]))
    def hostile(body, status):
        run(call, Hostile(CALLS[call][1][0], lambda: (status, body), math.inf, call))

    hostile()


HEADERS = st.sampled_from([
    "", "0", "-1", "9" * 30, "nan", "soon", "Wed, 99 Foo 2026 25:61:00 GMT", "bytes 0-1/2", "bytes */*", "bytes 99-1/0",
    "gzip", "br, gzip", "chunked", "text/html", "application/json; charset=none", "text/html; charset=\x00", "\x80",
    "http://[", "http://[::1", "//", "https://", "https://a b/", "http://:1", "?" * 3000, "file:///etc/passwd",
    "https://platform.example:99999999/", "https://platform.example:-1/", "javascript:x", f"{PLATFORM}/api/v2/", KEY,
    f"{PLATFORM}/api/v2/users/me/?{KEY}", "https://evil.example/\x1b[2J",
])


@pytest.mark.parametrize("call", ["job_monitor", "job_download", "upload_local_files", "file_previous_job"])
def test_whatever_headers_come_back_the_result_is_right_or_an_error(call):
    names = st.sampled_from(
        ["Location", "Retry-After", "Content-Range", "Content-Type", "Content-Encoding", "Content-Length",
         "Set-Cookie"])

    @bounded(2 * EXAMPLES)
    @given(headers=st.dictionaries(names, HEADERS, min_size=1, max_size=3),
           times=st.sampled_from([1, math.inf]),
           status=st.sampled_from([200, 206, 301, 302, 307, 308, 404, 416, 429, 503]),
           path=st.sampled_from([*CALLS[call][1], "files/arChiv/contents/", "files/loGloG/contents/"]))
    def hostile(headers, times, status, path):
        body = CONTENTS.get(path.split("/")[1], json.dumps(HONEST.get(path)).encode())
        run(call, Hostile(path, lambda: (status, body, headers), times, call))

    hostile()


@pytest.mark.parametrize("following", [
    "?page=\ud800", "http://[", "?page=2\0", "?page=" + "9" * 5000, "?" * 100_000, "?page=1&page=2", "?a[]=b", "?=",
    f"{PLATFORM}/api/v2/jobs/abCdEf/files/?page=2", "https://evil.example/?page=2", "?page=2#", 5, [], {}, True,
])
def test_a_link_to_the_next_page_leads_to_no_other_place(following):
    """Every page has it, so that it goes round in circles in the end."""
    page = {**HONEST["jobs/abCdEf/files/"], "next": following or [following]}
    connect(Hostile("jobs/abCdEf/files/", lambda: (200, page), math.inf, "file_previous_job"))

    with pytest.raises(rescale.RescaleError):
        rescale.file_previous_job(PLATFORM, TOKEN, "abCdEf")


@pytest.mark.parametrize("text", ["x\nimport os\n", "'''\nimport os", "\\\nimport os", "a\rimport os", "\u2028import"])
@pytest.mark.parametrize("field", ["code", "version", "command", "coreType", "projectId", "envVars", "second code"])
def test_the_settings_of_a_hostile_job_can_be_pasted_without_harm(text, field):
    job = copy.deepcopy(JOB)
    first, second = job["jobanalyses"]
    {
        "code": first["analysis"], "version": first["analysis"], "command": first, "coreType": first["hardware"],
        "projectId": job, "envVars": first, "second code": second["analysis"],
    }[field][field.rpartition(" ")[2]] = {text: text} if field == "envVars" else text

    result, _ = run("job_settings", Hostile("jobs/abCdEf/", lambda: (200, job), 1, "job_settings"))

    assert result is not None


def test_an_error_of_any_length_and_depth_is_told_in_a_screenful(monkeypatch):
    def error(depth: int) -> Any:
        return {"field": error(depth - 1), "text": "x" * 500} if depth else ["y" * 5000]

    for body in (error(40), ["z" * 200_000], {str(number): "w" for number in range(20_000)}, "v" * 200_000):
        connect(lambda request, body=body: (400, body))
        with pytest.raises(rescale.RescaleError) as raised:
            rescale.job_stop(PLATFORM, TOKEN, "abCdEf")
        assert len(str(raised.value)) < 3000
