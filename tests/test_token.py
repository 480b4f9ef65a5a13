"""1. platform_my_token: where address and key come from; and that nobody who is after the key gets it.

| promise (design, function 1, Requests, Never) | test |
|---|---|
| arguments, else environment, else apiconfig as people write it; a profile first; what is missing is named | first |
| an address is put right; http is for this computer; what is none, and no token, is refused | address, token |
| of a token four characters at most are printed, of a key in the wrong place nothing | token, wrong_place |
| a rehearsal goes to its simulator and nowhere else | rehearsal |
| no other host gets the token: by a redirect, .netrc, a proxy (a certificate: test_faults.py) | redirect, the last |
| but for a download no request follows a redirect | redirect |
| it is in no output, exception or file, whatever platform, log or broken server send | to_light, log, no_file |
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socketserver
import tarfile
import threading
import traceback
from pathlib import Path
from unittest import mock

import pytest
from urllib3.util import parse_url

import rescale_rest_api as rescale
from conftest import RIGHT_VALUES
from in_memory import JOB_ID, KEY, PLATFORM, TOKEN, Platform, connect, history
from rescale_simulator import Simulator
from test_hostile import CALLS
from two_jobs import Watch, copy_scripts, result, run_here

OTHER_KEY = "76543210fedcba9876543210fedcba9876543210"
JWT = ".".join(("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", "eyJ1c2VyIjoibWUiLCJleHAiOjE3MDAwMDAwMDB9" * 2, "SflKxwRJ" * 5))
KR, EU = "https://kr.rescale.com", "https://eu.rescale.com"


def leaks(text, key=KEY):
    """Whether more of it can be read than the last four characters."""
    return any(key[start : start + 8] in text for start in range(len(key) - 7))


def failure(call, *arguments):
    """All that can be seen of the error: what an uncaught one prints, and what a script can look at."""
    with pytest.raises(rescale.RescaleError) as error:
        call(*arguments)
    return f"{error.value!r} {vars(error.value)}".join(traceback.format_exception(error.type, error.value, error.tb))


def write_apiconfig(text):
    path = Path.home() / ".config" / "rescale" / "apiconfig"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def test_each_is_found_in_the_arguments_else_the_environment_else_the_file_but_for_a_profile(monkeypatch):
    write_apiconfig(f"[default]\napibaseurl = {KR}\napikey = {KEY}\n[eu]\napibaseurl = {EU}\napikey = {OTHER_KEY}\n")
    assert rescale.platform_my_token() == (KR, TOKEN)
    monkeypatch.setenv("RESCALE_API_URL", "https://environment.example")
    assert rescale.platform_my_token() == ("https://environment.example", TOKEN)
    monkeypatch.setenv("RESCALE_API_KEY", "environment-key")
    assert rescale.platform_my_token() == ("https://environment.example", "Token environment-key")
    assert rescale.platform_my_token(my_token=KEY) == ("https://environment.example", TOKEN)
    assert rescale.platform_my_token(KR, TOKEN) == (KR, TOKEN)
    assert rescale.platform_my_token(profile="eu") == (EU, f"Token {OTHER_KEY}")


SECTIONS = f"[korea]\napibaseurl = {KR}\napikey = {KEY}\n[eu]\napikey = {OTHER_KEY}\n"


@pytest.mark.parametrize(("text", "profile", "words"), [
    (f"[default]\napibaseurl = '{KR}'\napikey = '{KEY}'\n", None, None),
    (f'[default]\napibaseurl="{KR}"\napikey="{KEY}"\n', None, None),
    (f"\ufeff[default]\r\napibaseurl: {KR}/\r\napikey: {KEY}\r\n", None, None),  # of a Windows editor
    (f"[default]\napiurl = {KR}/api/v3/\napi_key = {TOKEN}\n", None, None), (SECTIONS, "korea", None),
    (f"[eu]\nx = %\n[default]\nplatform_url = {KR}\napikey={KEY}\n", None, None),  # the first is no other than others
    (SECTIONS, None, r"\[default\].*korea, eu"), (SECTIONS, "us", r"\[us\].*korea, eu"), ("", "us", r"\[us\]"),
    (f"apikey = {KEY}\n", None, "read"), (f"[default]\n{KEY}\n", None, "read"), (f"[default\n{KEY}", None, "read"),
    (f"\udcff{KEY}", None, "read"), ("", None, "RESCALE_API_URL"), (f"[default]\napiurl={KR}", None, "RESCALE_API_KEY"),
])
def test_apiconfig_is_read_as_people_write_it_or_else_named_but_never_quoted(text, profile, words):
    path = write_apiconfig(text)
    if words is None:
        assert rescale.platform_my_token(profile=profile) == (KR, TOKEN)
    else:
        story = failure(lambda: rescale.platform_my_token(profile=profile))
        assert re.search(rf"{path.name}.*{words}|{words}.*{path.name}", story)
        assert not leaks(story) + leaks(story, OTHER_KEY)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
@pytest.mark.parametrize("home", ["none", "missing", "a file", "unreadable", "no user"])
def test_whoever_has_no_home_can_still_give_both(home, monkeypatch, tmp_path):
    (tmp_path / "a file").touch()
    (tmp_path / "unreadable" / ".config" / "rescale" / "apiconfig").mkdir(parents=True)
    monkeypatch.setenv("HOME", "" if home == "none" else str(tmp_path / home))
    if home == "no user":  # as in a container
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert rescale.platform_my_token(KR, KEY) == (KR, TOKEN)
    Path("rod.inp").touch()
    assert rescale.create_tar_gz()
    assert re.search("RESCALE_API_URL.*apiconfig|apiconfig.*IsADirectoryError", failure(rescale.platform_my_token))


@pytest.mark.parametrize(("written", "right"), [
    *((written, True) for written in (
        "kr.rescale.com", "https://kr.rescale.com//", "https://kr.rescale.com/api/v2/", "https://kr.rescale.com/api/v3",
        " https://kr.rescale.com\n", "http://127.0.0.1:8000/", "http://localhost:8000", "http://[::1]:8000/api/")),
    *((written, False) for written in (
        "HTTP://kr.rescale.com", "http://127.0.0.1.evil.example", "http://127.0.0.1@evil.example", "http://1270.0.0.1",
        "ftp://kr.rescale.com", "https://", "Token abc", "https://kr.rescale.com/jobs/abc", "https://u:p@kr.rescale.com",
        "https://kr.rescale.com?x=1", "https://kr.rescale.com:port", "https://kr rescale.com")),
])
def test_an_address_is_put_right_or_named_where_it_is_none_or_http_to_elsewhere(written, right):
    if right:
        platform = written.partition("/api")[0].strip(" /\n")
        assert rescale.platform_my_token(written, KEY)[0] == (platform if "://" in platform else f"https://{platform}")
    else:
        with pytest.raises(rescale.RescaleError, match=rf"(?=.*{re.escape(written)})(?=.*https://)"):
            rescale.platform_my_token(written, KEY)


@pytest.mark.parametrize(("written", "token"), [
    (KEY, TOKEN), (TOKEN, TOKEN), (f"  Token  {KEY}\n", TOKEN), ("50%(x)s%%aa%d", "Token 50%(x)s%%aa%d"),
    ("Bearer eyJh.eyJz.SflK", "Bearer eyJh.eyJz.SflK"), ("123456789abc", "Token 123456789abc"), ("Zq9X", "Token Zq9X"),
    *((written, None) for written in ("", " ", "Token", "Token ", None, 12345678, "two words", "Token a b", "Schlüs")),
])
def test_a_token_is_returned_as_the_header_wants_it_and_hardly_printed_or_refused(written, token, sim, fast, capsys):
    if token is None:
        for call in (rescale.platform_my_token, lambda *access: rescale.job_monitor(*access, JOB_ID)):
            assert "my_token" in failure(call, sim.url, written)
        assert sim.requests == []
    else:
        write_apiconfig(f"[default]\napibaseurl = {KR}\napikey = {written}")
        assert rescale.platform_my_token() == rescale.platform_my_token(KR, written) == (KR, token)
        out, key = capsys.readouterr().out, token.split()[1]
        assert out.count(f"{KR}\nmy_token = Token ...{key[-4:] if len(key) >= 12 else ''}\n") == 2
        assert not leaks(out, key)


@pytest.mark.parametrize("key", [KEY, TOKEN, JWT, OTHER_KEY, "Zq9Xw7Zq9X"])
def test_a_key_in_a_wrong_place_is_not_quoted(key, clock, monkeypatch, capsys):
    connect(lambda _: (404, {"detail": "Not found."}))
    _ = len(key) > 30 or rescale.platform_my_token(PLATFORM, key)  # even a short one is known when it is in use
    write_apiconfig(f"[default]\napibaseurl = {key}\napikey = {KR}\n")
    monkeypatch.setenv("RESCALE_API_KEY", KR)
    stories = failure(rescale.platform_my_token)
    monkeypatch.setenv("RESCALE_API_URL", key)
    stories += failure(rescale.platform_my_token) + failure(rescale.platform_my_token, key, KR)
    for function, *values in (
        ("job_monitor", key), ("job_submit", "job", key), ("job_download", f"{key}/x", JOB_ID),
        ("job_setup", f"{key}/x", *[*RIGHT_VALUES.values()][1:]),
    ):
        stories += failure(getattr(rescale, function), PLATFORM, TOKEN, *values)
    assert not any(leaks(stories + capsys.readouterr().out, part) for part in key.split()[-1].split("."))


def test_a_rehearsal_goes_to_its_simulator_and_nowhere_else(monkeypatch, sim, fast, tmp_path):
    write_apiconfig(f"[default]\napibaseurl = {KR}\napikey = {KEY}\n")
    with Simulator(tmp_path / "paid", speed=0) as paid:
        monkeypatch.setenv("RESCALE_REHEARSAL", sim.url)
        monkeypatch.setenv("RESCALE_API_URL", sim.url)
        assert "my_token" in failure(rescale.platform_my_token)  # the key of the file is for what is paid
        monkeypatch.setenv("RESCALE_API_KEY", sim.token)
        assert rescale.platform_my_token() == (sim.url, f"Token {sim.token}")
        for platform in (paid.url, KR):
            assert "rehearsal" in failure(rescale.platform_my_token, platform, KEY)
            assert "rehearsal" in failure(rescale.job_submit, platform, f"Token {paid.token}", "job", JOB_ID)
        assert paid.requests == []


ELSEWHERE = [
    f"{PLATFORM}/elsewhere/", "http://127.0.0.1/", "https://evil.example/", "//evil.example/x",
    "https://platform.example:8443/", "http://platform.example/", "https://platform.example@evil.example/",
    "https://evil.example\\@platform.example/", "https://evil.example#@platform.example/",
    "https://platform.example.evil.example/", "https://platform.example.:443/", "https://evil.example;@platform.example/",
]


@pytest.mark.parametrize(("function", "rehearsal"), [*((name, "") for name in CALLS), ("job_download", PLATFORM)])
def test_only_a_download_goes_where_a_redirect_leads_without_the_token_and_never_out_of_tls_or_a_rehearsal(
    function, rehearsal, clock, monkeypatch, capsys
):
    Path("../rescale.tar.gz").touch()
    monkeypatch.setenv("RESCALE_REHEARSAL", rehearsal)
    (Path.home() / ".netrc").write_text("default login me password hunter2\n")
    (Path.home() / ".netrc").chmod(0o600)
    platform, seen = Platform(), []

    def answer(request):
        address = parse_url(request.url)  # where it would really go
        seen.append((address.scheme, address.host, address.port))
        if seen[-1] != ("https", "platform.example", None) or address.path == "/elsewhere/":
            assert (function, address.scheme, rehearsal) == ("job_download", "https", "")
            assert address.path == "/elsewhere/" or "Authorization" not in request.headers
            assert address.path == "/elsewhere/" or not leaks(f"{request.headers} {request.url} {request.body}")
            return 400, {}
        assert request.headers["Authorization"] == TOKEN
        if function == "job_download" and "/contents/" not in request.url:
            return platform(request)
        status = (301, 302, 303, 307, 308)[len(seen) % 5]
        return (status, b"", {"Location": location}) if len(seen) < 9 else (400, {})  # job_monitor would go on for ever

    connect(answer)
    for location in ELSEWHERE if function == "job_download" else ELSEWHERE[:4]:  # noqa: B007
        seen.clear()
        with contextlib.suppress(rescale.RescaleError):
            getattr(rescale, function)(PLATFORM, TOKEN, *CALLS[function])
        assert seen[0] == ("https", "platform.example", None)
        assert len(seen) < 9 or "platform.example: redirected to " in capsys.readouterr().out


ECHOES = [
    {"detail": f"Wrong {KEY}"}, {KEY: {KEY: [KEY]}}, {"results": [KEY], "id": KEY}, KEY.encode(), TOKEN.encode(),
    {"results": [{"status": KEY, "id": KEY, "name": KEY, "decryptedSize": KEY}], "next": f"?page={KEY}"},
    *({"detail": "x" * before + KEY + "y" * 2000} for before in (*range(250, 310, 12), *range(900, 1010, 20))),
]


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 503])
@pytest.mark.parametrize("function", [name for name in CALLS if name != "job_monitor"])  # which would go on for ever
def test_a_platform_that_sends_the_token_back_does_not_bring_it_to_light(function, status, clock, capsys):
    Path("../rescale.tar.gz").touch()
    stories = ""
    with mock.patch.multiple(rescale, FILES_PATIENCE=100, THROTTLE_PATIENCE=100, PATIENCE=100):
        for body in ECHOES if function == "job_stop" else ECHOES[:6]:
            connect(lambda _, body=body: (status, body, {"X-Key": KEY, "Content-Type": f"text/{KEY}"}))
            with contextlib.suppress(pytest.fail.Exception):  # it may be believed
                stories += failure(getattr(rescale, function), PLATFORM, TOKEN, *CALLS[function])
    stories += "".join(capsys.readouterr())
    stories += "".join(path.read_text() for path in Path().rglob("*") if path.is_file() and path.suffix != ".uploaded")
    assert not leaks(stories)


@contextlib.contextmanager
def script(answer: bytes):
    """A server that reads a request, keeps its head, and answers with these bytes, whatever they are."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            server.heads.append(b"".join(iter(self.rfile.readline, b"\r\n")))
            self.rfile.read(int((re.findall(rb"Content-Length: (\d+)", server.heads[-1]) or [0])[0]))
            self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.host, server.heads, server.handle_error = f"localhost:{server.server_address[1]}", [], lambda *_: None
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("answer", [
    f"HTTP/1.1 500 {TOKEN}\r\nContent-Length: 0\r\n\r\n", f"HTTP/1.1 400 {TOKEN}\r\nContent-Length: 0\r\n\r\n",
    f"BOGUS {TOKEN}\r\n\r\n", f"HTTP/1.1 {KEY} OK\r\n\r\n", f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n",
    f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}zz\r\n", f"{TOKEN}" * 10_000,
    f"HTTP/1.1 302 Found\r\nLocation: https://{KEY}.example/?{KEY}\r\nContent-Length: 0\r\n\r\n",
    f"HTTP/1.1 302 Found\r\nLocation: http://[{KEY}\r\nContent-Length: 0\r\n\r\n",
    f"HTTP/1.1 200 OK\r\nContent-Type: {KEY}\r\nContent-Length: 5\r\n\r\n{KEY[:5]}",
    f"HTTP/1.1 200 OK\r\nContent-Encoding: {KEY}\r\nContent-Length: 5\r\n\r\n{KEY[:5]}",
    f"HTTP/1.1 429 No\r\nRetry-After: {KEY}\r\nContent-Length: 0\r\n\r\n",
], ids=lambda answer: repr(answer[:60]))
def test_a_server_that_breaks_the_rules_with_the_token_does_not_bring_it_to_light(answer, clock, monkeypatch, capsys):
    monkeypatch.setattr(rescale, "PATIENCE", 5)
    with script(answer.encode()) as server:
        story = failure(rescale.job_settings, f"http://{server.host}", TOKEN, JOB_ID) + capsys.readouterr().out
    assert server.heads
    assert not leaks(story)


def test_a_token_in_the_log_of_a_job_is_not_shown(clock, capsys):
    log = f"export RESCALE_API_KEY={KEY}\nExited with code 3\n".encode()  # one that is cut: test_monitor.py
    platform = Platform((("Executing", None),), {"aLog": ("process_output.log", log)}, made_here=False)

    def answer(request):
        if "/tail/" not in request.url:
            return platform(request)
        platform.answers[f"jobs/{JOB_ID}/statuses/"] = history(("Executing", None), ("Completed", f"failed {KEY}"))
        return 200, {"lines": [f"curl -H 'Authorization: {TOKEN}'", f"{KEY}{KEY}", "done"]}

    connect(answer)
    story = failure(rescale.job_monitor, PLATFORM, TOKEN, JOB_ID) + capsys.readouterr().out
    assert ("Exited with code 3" in story, "done" in story, leaks(story)) == (True, True, False)


def test_the_token_is_in_no_file_that_a_chain_leaves_or_sends(sim, access, environment, capsys):
    """Though people write it into their script, whose copies lie among the input files."""
    Watch(sim)
    copy_scripts(Path.cwd())
    holders = [Path("inputs", name) for name in ("main.py", "main.py~", "main (copy).py", ".env", "old.txt")]
    for path in holders:
        path.write_text(f"import rescale_rest_api as rescale\nrescale_platform, my_token = {access!r}\n")
    assert run_here() == 0
    files = [path for path in Path().rglob("*") if path.is_file() and path not in holders]
    assert {path.suffix for path in files} >= {".job", ".gz", ".uploaded", ".log", ".chain", ".desktop"}
    with tarfile.open(result()) as archive:
        said = [archive.extractfile(member).read() for member in archive if member.isfile()]
    said += [path.read_bytes() for path in files] + [str(job.body).encode() for job in sim.jobs.values()]
    assert sim.token.encode() not in b"".join(said) + capsys.readouterr().out.encode()


ANSWERS = {"denied": b"407 Proxy Authentication Required\r\nProxy-Authenticate: Basic", "broken": b"502 Bad Gateway"}


@pytest.mark.parametrize("how", ["denied", "broken", "closed", pytest.param(
    "without PySocks", marks=pytest.mark.skipif(bool(importlib.util.find_spec("socks")), reason="it is installed"))])
@pytest.mark.parametrize("password", ["hunter2", *(f"hunter2{sign}x" for sign in "#@/?%:[ ")])
def test_a_proxy_that_does_not_work_is_told_without_its_password(password, how, clock, monkeypatch, capsys):
    scheme = "socks5h" if how == "without PySocks" else "http"
    with script(b"HTTP/1.1 " + ANSWERS.get(how, b"") + b"\r\nContent-Length: 0\r\n\r\n") as proxy:
        host = "localhost:9" if how == "closed" else proxy.host
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://me:{password}@{host}")
        story = failure(rescale.job_stop, PLATFORM, TOKEN, JOB_ID)
    assert "hunter2" not in story + capsys.readouterr().out
    assert "proxy" in story.lower()
    if password == "hunter2":
        assert {"denied": "407", "without PySocks": "pip install pysocks"}.get(how, "HTTPS_PROXY") in story
        assert clock.now == 0 or how in ("broken", "closed")
    assert not any(leaks(head.decode()) for head in proxy.heads)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"])
def test_what_goes_to_this_computer_goes_past_the_proxy(name, set_up, monkeypatch):
    """A rehearsal sends the token unencrypted, but no further than to the simulator."""
    monkeypatch.setenv(name, "http://me:hunter2@localhost:9")  # where nobody listens
    assert set_up()
