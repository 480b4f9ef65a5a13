"""1. platform_my_token: where address and key come from; and that nobody who is after the key gets it."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import socketserver
import ssl
import tarfile
import threading
import traceback
from pathlib import Path

import pytest
import requests
import trustme
from urllib3.util import parse_url

import rescale_rest_api as rescale
from conftest import RIGHT_VALUES
from in_memory import JOB_ID, KEY, PLATFORM, TOKEN, Platform, connect, history
from rescale_simulator import Fault, Simulator
from two_jobs import LINKS, Watch, command

OTHER_KEY = "76543210fedcba9876543210fedcba9876543210"
JWT = ".".join(("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", "eyJ1c2VyIjoibWUiLCJleHAiOjE3MDAwMDAwMDB9" * 2, "SflKxwRJ" * 5))
KR, EU = "https://kr.rescale.com", "https://eu.rescale.com"
SETTINGS = ("user_included", "0", {}, "emerald", 1, 1, 1, None)


def leaks(text, key=KEY):
    """Whether more of it can be read than the last four characters."""
    return any(key[start : start + 8] in text for start in range(len(key) - 7))


def whole_story(error):
    """All that can be seen of an error: what an uncaught one prints, and what a script can look at."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)) + f"{error!r} {vars(error)}"


def write_apiconfig(text, mode=0o600):
    path = Path.home() / ".config" / "rescale" / "apiconfig"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def apiconfig(url, key, section="default"):
    return f"[{section}]\napibaseurl = {url}\napikey = {key}\n"


# Where they come from


def test_the_arguments_go_before_the_environment_and_the_environment_before_the_file(monkeypatch):
    write_apiconfig(apiconfig("https://file.example", "file-key-file-key"))
    assert rescale.platform_my_token() == ("https://file.example", "Token file-key-file-key")
    monkeypatch.setenv("RESCALE_API_URL", "https://environment.example")
    assert rescale.platform_my_token() == ("https://environment.example", "Token file-key-file-key")  # one by one
    monkeypatch.setenv("RESCALE_API_KEY", "environment-key")
    assert rescale.platform_my_token() == ("https://environment.example", "Token environment-key")
    assert rescale.platform_my_token(my_token=KEY) == ("https://environment.example", f"Token {KEY}")
    assert rescale.platform_my_token(KR, f"Token {KEY}") == (KR, f"Token {KEY}")


def test_a_named_profile_goes_before_the_environment(monkeypatch):
    write_apiconfig(apiconfig(KR, KEY) + apiconfig(EU, OTHER_KEY, "eu"))
    monkeypatch.setenv("RESCALE_API_URL", "https://environment.example")
    monkeypatch.setenv("RESCALE_API_KEY", "environment-key")
    assert rescale.platform_my_token(profile="eu") == (EU, f"Token {OTHER_KEY}")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"[default]\napibaseurl = '{KR}'\napikey = '{KEY}'\n", id="single quotes"),
        pytest.param(f'[default]\napibaseurl="{KR}"\napikey="{KEY}"\n', id="double quotes, no blanks"),
        pytest.param(f"\ufeff[default]\r\napibaseurl: {KR}/\r\napikey: {KEY}\r\n", id="written by a Windows editor"),
        pytest.param(f"[default]\nplatform_url = {KR}\napi_key = {KEY}\n", id="other names of the keys"),
        pytest.param(f"# mine\n[eu]\napikey = no\n[default]\napikey = {KEY}\napibaseurl = {KR}\n", id="not the first"),
    ],
)
def test_the_file_is_read_as_people_write_it(text):
    write_apiconfig(text)
    assert rescale.platform_my_token() == (KR, f"Token {KEY}")


def test_a_percent_sign_in_the_key_is_nothing_special():
    write_apiconfig(apiconfig(KR, "50%(x)s%%aa%d"))
    assert rescale.platform_my_token()[1] == "Token 50%(x)s%%aa%d"


@pytest.mark.skipif(os.name == "nt", reason="no permission bits there")
@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o644, True), (0o640, True)])
def test_a_file_that_others_can_read_is_warned_of(mode, warned, capsys):
    path = write_apiconfig(apiconfig(KR, KEY), mode)
    rescale.platform_my_token()
    assert (f"chmod 600 {path}" in capsys.readouterr().out) is warned


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
@pytest.mark.parametrize("home", ["none", "missing", "a file", "unreadable", "no user"])
def test_whoever_has_no_home_can_still_give_both(home, monkeypatch, tmp_path):
    """As in a container."""
    if home == "none":
        monkeypatch.setenv("HOME", "")
    elif home == "no user":
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    elif home == "unreadable":
        write_apiconfig("")
        monkeypatch.setattr(Path, "read_text", refuse_to_read)
    else:
        monkeypatch.setenv("HOME", str(tmp_path / "home file"))
        if home == "a file":
            (tmp_path / "home file").write_text("x")
    assert rescale.platform_my_token(KR, KEY) == (KR, f"Token {KEY}")
    Path("rod.inp").write_text("x")
    rescale.create_tar_gz()
    with pytest.raises(rescale.RescaleError, match=r"RESCALE_API_URL.*apiconfig|apiconfig.*PermissionError"):
        rescale.platform_my_token()


def refuse_to_read(path, *_, **__):
    raise PermissionError(13, "Permission denied", str(path))


# What people leave at the end of an address


@pytest.mark.parametrize("written", [
    "kr.rescale.com", "https://kr.rescale.com/", "https://kr.rescale.com//", "https://kr.rescale.com/api/v2/",
    "https://kr.rescale.com/api/v3", "kr.rescale.com/api/", " https://kr.rescale.com\n",
    "http://127.0.0.1:8000/", "http://localhost:8000", "http://[::1]:8000/api/v2/",  # http only on this computer
])
def test_the_address_is_put_right(written):
    platform = written.partition("/api")[0].strip(" /\n")
    assert rescale.platform_my_token(written, KEY)[0] == (platform if "://" in platform else f"https://{platform}")


@pytest.mark.parametrize("written", [
    "http://kr.rescale.com", "HTTP://kr.rescale.com", "http://127.0.0.1.evil.example", "http://localhost.example",
    "http://127.0.0.1@evil.example", "http://1270.0.0.1", "ftp://kr.rescale.com", "https://",
    "https://kr.rescale.com/jobs/abc", "https://user:pw@kr.rescale.com", "https://kr.rescale.com?x=1",
    "https://kr.rescale.com:port", "https://kr rescale.com", "Token abc",
])
def test_http_to_elsewhere_and_what_is_no_address_is_named(written):
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.platform_my_token(written, KEY)
    assert written in str(refused.value)
    assert "https://" in str(refused.value)


# What is printed and returned


@pytest.mark.parametrize("key", [KEY, "123456789abc", "Zq9Xw7", "Zq9Xw7abcde"])
def test_of_the_token_four_characters_at_most_are_printed(key, sim, access, capsys):
    rescale.platform_my_token(KR, key)
    out = capsys.readouterr().out
    assert KR in out
    shown = key[-4:] if len(key) >= 12 else ""
    assert f"...{shown}\n" in out
    assert key[-5:] not in out
    assert key[:4] not in out


def test_check_settings_prints_no_more_of_a_short_key(sim, fast, capsys):
    sim.token = "Zq9Xw7"
    rescale.check_settings(sim.url, "Token Zq9Xw7", *SETTINGS)
    out = capsys.readouterr().out
    assert "token ...\n" in out
    assert "Xw7" not in out


@pytest.mark.parametrize(("written", "token"), [
    (KEY, f"Token {KEY}"), (f"Token {KEY}", f"Token {KEY}"), (f"  Token  {KEY}\n", f"Token {KEY}"),
    ("Bearer eyJh.eyJz.SflK", "Bearer eyJh.eyJz.SflK"),
])
def test_the_token_comes_back_as_the_header_wants_it(written, token):
    assert rescale.platform_my_token(KR, written)[1] == token


# What is refused


@pytest.mark.parametrize("token", ["", " ", "Token", "Token ", None, 12345678, "two words", "Token a b", "Schlüssel99"])
def test_an_empty_or_impossible_token_is_refused_before_anything_is_sent(token, sim, fast):
    with pytest.raises(rescale.RescaleError, match="my_token"):
        rescale.platform_my_token(sim.url, token)
    with pytest.raises(rescale.RescaleError, match="my_token"):
        rescale.job_monitor(sim.url, token, JOB_ID)
    assert sim.requests == []


def test_what_is_missing_is_named_with_the_ways_to_give_it():
    with pytest.raises(rescale.RescaleError, match=r"rescale_platform.*RESCALE_API_URL.*apiconfig"):
        rescale.platform_my_token(None, KEY)
    with pytest.raises(rescale.RescaleError, match=r"my_token.*RESCALE_API_KEY.*apiconfig"):
        rescale.platform_my_token(KR)
    with pytest.raises(rescale.RescaleError, match=r"'eu'.*apiconfig"):
        rescale.platform_my_token(profile="eu")


@pytest.mark.parametrize("profile", [None, "us"])
def test_a_section_that_is_not_there_is_answered_with_those_that_are(profile):
    path = write_apiconfig(apiconfig(KR, KEY, "korea") + apiconfig(EU, OTHER_KEY, "eu"))
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.platform_my_token(profile=profile)
    assert all(word in str(refused.value) for word in (profile or "[default]", str(path), "korea", "eu"))
    assert not any(leaks(str(refused.value), key) for key in (KEY, OTHER_KEY))


@pytest.mark.parametrize("text", [f"apikey = {KEY}\n", f"[default]\n{KEY}\n", f"[default\n{KEY}", f"\udcff{KEY}"],
                         ids=["no section", "no name", "no bracket", "no UTF-8"])
def test_a_file_that_cannot_be_understood_is_named_but_not_quoted(text):
    path = write_apiconfig("")
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(rescale.RescaleError, match="apiconfig") as refused:
        rescale.platform_my_token()
    assert not leaks(whole_story(refused.value))


@pytest.mark.parametrize("key", [KEY, f"Token {KEY}", pytest.param(JWT, id="JWT")])
@pytest.mark.parametrize("address", [KR, "kr.rescale.com"])
def test_a_key_in_the_place_of_the_address_is_not_shown(key, address, monkeypatch, capsys):
    """The arguments, or the two values of the file or the environment, are interchanged."""
    stories = []
    write_apiconfig(apiconfig(key, address))
    for arguments in ((key, address), ()):
        with pytest.raises(rescale.RescaleError) as refused:
            rescale.platform_my_token(*arguments)
        stories.append(str(refused.value))
    monkeypatch.setenv("RESCALE_API_URL", key)
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.platform_my_token()
    out = capsys.readouterr().out
    for part in key.split()[-1].split("."):
        assert not leaks("".join(stories) + str(refused.value) + out, part)


@pytest.mark.parametrize("key", [OTHER_KEY, f"Token {OTHER_KEY}", KEY, "Zq9Xw7Zq9X"])
def test_a_key_given_as_a_job_is_not_quoted(key, clock, capsys):
    """Neither one that is not in use nor one that is, however short."""
    connect(lambda _: (404, {"detail": "Not found."}))
    if OTHER_KEY not in key:
        rescale.platform_my_token(PLATFORM, key)
    capsys.readouterr()
    for call in (
        lambda: rescale.job_monitor(PLATFORM, TOKEN, key), lambda: rescale.job_submit(PLATFORM, TOKEN, "job", key),
        lambda: rescale.job_download(PLATFORM, TOKEN, f"{key}/x", JOB_ID),
        lambda: rescale.job_setup(PLATFORM, TOKEN, **{**RIGHT_VALUES, "job_name": f"{key}/x"}),
    ):
        with pytest.raises(rescale.RescaleError) as refused:
            call()
        assert not leaks(str(refused.value) + capsys.readouterr().out, key.split()[-1])


# A rehearsal


def test_a_rehearsal_goes_to_its_simulator_and_nowhere_else(monkeypatch, sim, fast, tmp_path):
    write_apiconfig(apiconfig(KR, KEY))
    with Simulator(tmp_path / "paid", speed=0) as paid:
        monkeypatch.setenv("RESCALE_REHEARSAL", sim.url)
        monkeypatch.setenv("RESCALE_API_URL", sim.url)
        with pytest.raises(rescale.RescaleError, match="my_token"):
            rescale.platform_my_token()  # the key of the file is for what is paid
        monkeypatch.setenv("RESCALE_API_KEY", sim.token)
        assert rescale.platform_my_token() == (sim.url, f"Token {sim.token}")
        for platform in (paid.url, KR):
            with pytest.raises(rescale.RescaleError, match="rehearsal"):
                rescale.platform_my_token(platform, KEY)
            with pytest.raises(rescale.RescaleError, match="rehearsal"):
                rescale.job_submit(platform, f"Token {paid.token}", "job", JOB_ID)
        assert paid.requests == []


def test_a_rehearsal_follows_no_redirect_out_of_it(monkeypatch, access, clock, sim, ended_job):
    monkeypatch.setenv("RESCALE_REHEARSAL", sim.url)
    job_id = ended_job({"rescale.tar.gz": b"1"})
    sim.faults.append(Fault("redirect", path="contents", times=1000, location="https://storage.example/a"))
    with pytest.raises(rescale.RescaleError, match=r"redirected to storage\.example"):
        rescale.job_download(*access, "job", job_id)


# Other hosts


def upload(platform):
    Path("rod.inp").write_text("x")
    rescale.upload_local_files(platform, TOKEN, "rod.inp")


CALLS = {
    "upload_local_files": upload,
    "job_setup": lambda platform: rescale.job_setup(platform, TOKEN, **RIGHT_VALUES),
    "job_submit": lambda platform: rescale.job_submit(platform, TOKEN, "job", JOB_ID),
    "job_monitor": lambda platform: rescale.job_monitor(platform, TOKEN, JOB_ID),
    "job_download": lambda platform: rescale.job_download(platform, TOKEN, "job", JOB_ID),
    "file_previous_job": lambda platform: rescale.file_previous_job(platform, TOKEN, JOB_ID),
    "job_settings": lambda platform: rescale.job_settings(platform, TOKEN, JOB_ID),
    "check_settings": lambda platform: rescale.check_settings(platform, TOKEN, *SETTINGS),
    "job_stop": lambda platform: rescale.job_stop(platform, TOKEN, JOB_ID),
    "chain_overview": lambda platform: rescale.chain_overview(platform, TOKEN, {"job": JOB_ID}),
}


class Enough(BaseException):
    """Ends what would go on for ever."""


ELSEWHERE = [
    "https://evil.example/", "//evil.example/x", "https://platform.example:8443/", "http://platform.example/",
    "https://platform.example@evil.example/", "https://evil.example\\@platform.example/",
    "https://evil.example#@platform.example/", "https://evil.example?@platform.example/",
    "https://platform.example.evil.example/", "https:evil.example/", "https://xplatform.example/",
    "https://platform.example.:443/", "https:///evil.example/", "HTTP://platform.example/",
    "https://evil.example;@platform.example/", "https://[::1]/", "https://evil.example%2f@platform.example/",
    "\thttps://evil.example/",
]


@pytest.mark.parametrize("call", CALLS)
def test_the_token_is_redirected_nowhere_else(call, clock, monkeypatch):
    """Where requests would really go decides, not how the library reads the address."""
    monkeypatch.setattr(rescale, "PATIENCE", 60)
    for location in ELSEWHERE:
        seen = []

        def answer(request, location=location, seen=seen):
            address = parse_url(request.url)
            seen.append((address.scheme, address.host, address.port or {"https": 443, "http": 80}[address.scheme]))
            if seen[-1] != ("https", "platform.example", 443):
                assert not leaks(str(request.headers) + request.url + str(request.body)), request.url
            if len(seen) > 50:
                raise Enough
            return 302, b"", {"Location": location}

        connect(answer)
        with contextlib.suppress(rescale.RescaleError, Enough):
            CALLS[call](PLATFORM)
        assert seen[0] == ("https", "platform.example", 443)


@pytest.mark.parametrize("location", [
    "https://storage.example/a?signature=1", "https://platform.example:8443/a", "https://platform.example.evil.example/",
])
def test_the_object_storage_gets_the_request_but_not_the_token(clock, location):
    asked, platform = [], Platform()
    platform.answers[f"jobs/{JOB_ID}/files/"]["results"][0]["downloadUrl"] = "https://evil.example/api/v2/files/x/"

    def answer(request):
        asked.append(request)
        if not request.url.startswith(f"{PLATFORM}/"):
            return 200, b"the archive", {"Content-Type": "application/octet-stream"}
        return (302, b"", {"Location": location}) if "/contents/" in request.url else platform(request)

    connect(answer)
    [path] = rescale.job_download(PLATFORM, TOKEN, "job", JOB_ID)

    assert path.read_bytes() == b"the archive"
    [elsewhere] = [request for request in asked if parse_url(request.url).netloc != "platform.example"]
    assert parse_url(elsewhere.url).netloc in location
    assert "Authorization" not in elsewhere.headers
    assert all(request.headers["Authorization"] == TOKEN for request in asked if request is not elsewhere)


@pytest.mark.parametrize("host", ["storage.example", "127.0.0.1", "localhost"])
def test_an_encrypted_download_is_never_redirected_to_an_unencrypted_one(clock, host):
    platform = Platform()

    def answer(request):
        assert request.url.startswith("https://")
        return (302, b"", {"Location": f"http://{host}/a"}) if "/contents/" in request.url else platform(request)

    connect(answer)
    with pytest.raises(rescale.RescaleError, match=f"redirected to {host}"):
        rescale.job_download(PLATFORM, TOKEN, "job", JOB_ID)


def test_neither_port_nor_name_of_this_computer_is_mistaken_for_the_platforms(sim, access, run_job, tmp_path):
    """127.0.0.1 and localhost are two hosts, and so are two ports of one."""
    with Simulator(tmp_path / "other", token=sim.token, speed=0) as other:
        job_id = run_job()
        for foreign in (other.url, sim.url.replace("127.0.0.1", "localhost")):
            sim.page_size_cap, sim.next_foreign = 1, foreign
            rescale.job_monitor(*access, job_id)
        sim.faults.append(Fault("redirect", path="statuses", location=f"{other.url}/api/v2/jobs/{job_id}/statuses/"))
        rescale.job_monitor(*access, job_id)
    assert not other.requests
    assert {record.headers["Host"] for record in sim.requests} == {sim.url.partition("://")[2]}


def test_a_password_in_netrc_goes_neither_to_the_platform_nor_to_the_storage(sim, access, run_job):
    netrc = Path.home() / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\ndefault login me password hunter2\n")
    netrc.chmod(0o600)
    sim.contents_redirect = True
    rescale.job_download(*access, "job", run_job())
    assert {record.headers["Authorization"] for record in sim.requests} == {f"Token {sim.token}"}
    assert sim.storage_requests
    assert not any("Authorization" in record.headers for record in sim.storage_requests)


# Screen and errors


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 503])
@pytest.mark.parametrize("call", [call for call in CALLS if call != "job_monitor"])  # which goes on for ever
def test_a_platform_that_sends_the_token_back_does_not_bring_it_to_light(clock, capsys, call, status, monkeypatch):
    for name in ("FILES_PATIENCE", "THROTTLE_PATIENCE", "PATIENCE"):
        monkeypatch.setattr(rescale, name, 100)
    stories = []
    bodies = [
        {"detail": f"Invalid token {KEY}"}, {KEY: {KEY: [KEY]}}, {"results": [KEY], "id": KEY}, KEY.encode(),
        f"<p>{TOKEN}</p>".encode(),
        {"results": [{"status": KEY, "id": KEY, "name": KEY, "decryptedSize": KEY}], "next": f"?page={KEY}"},
    ]
    for body in bodies:
        connect(lambda _, body=body: (status, body, {"X-Key": KEY, "Content-Type": f"text/{KEY}"}))
        try:
            CALLS[call](PLATFORM)
        except rescale.RescaleError as error:
            stories.append(whole_story(error))
    assert not leaks("".join(stories))
    captured = capsys.readouterr()
    assert not leaks(captured.out + captured.err)
    kept = [path for path in Path().rglob("*") if path.is_file() and path.suffix != ".uploaded"]
    assert not any(leaks(path.read_text(errors="replace")) for path in kept)


@pytest.mark.parametrize("status", [400, 503])
def test_a_text_that_is_cut_short_is_not_cut_within_the_token(clock, capsys, status):
    for before in (*range(240, 310, 6), *range(900, 1010, 8)):
        text = "x" * before + KEY + "y" * 2000
        for body in ({"detail": text}, text.encode()):
            connect(lambda _, body=body: (status, body, {"Content-Type": "text/plain"}))
            with pytest.raises(rescale.RescaleError) as error:
                rescale.job_stop(PLATFORM, TOKEN, JOB_ID)
            assert not leaks(whole_story(error.value) + capsys.readouterr().out)


RAW_ANSWERS = [
    f"HTTP/1.1 500 {TOKEN}\r\nContent-Length: 0\r\n\r\n",
    f"HTTP/1.1 400 {TOKEN}\r\nContent-Length: 0\r\n\r\n",
    f"BOGUS {TOKEN}\r\n\r\n",
    f"HTTP/1.1 {KEY} OK\r\n\r\n",
    f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}zz\r\n",
    f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n",
    f"HTTP/1.1 302 Found\r\nLocation: https://{KEY}.example/?{KEY}\r\nContent-Length: 0\r\n\r\n",
    f"HTTP/1.1 302 Found\r\nLocation: http://[{KEY}\r\nContent-Length: 0\r\n\r\n",
    f"HTTP/1.1 200 OK\r\nContent-Type: {KEY}\r\nContent-Length: 5\r\n\r\n{KEY[:5]}",
    f"HTTP/1.1 200 OK\r\nContent-Encoding: {KEY}\r\nContent-Length: 5\r\n\r\n{KEY[:5]}",
    f"HTTP/1.1 429 No\r\nRetry-After: {KEY}\r\nContent-Length: 0\r\n\r\n",
    f"{TOKEN}" * 10_000,
]


class Served:
    """Serves in a thread until the block is left."""

    daemon_threads = allow_reuse_address = True

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        pass


class Script(Served, socketserver.ThreadingTCPServer):
    """A server that reads a request's head and answers with these bytes, whatever they are."""

    def __init__(self, answer: bytes) -> None:
        heads = self.heads = []

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                heads.append(b"".join(iter(self.rfile.readline, b"\r\n")))
                self.wfile.write(answer)

        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]


@pytest.mark.parametrize("answer", RAW_ANSWERS, ids=range(len(RAW_ANSWERS)))
def test_a_server_that_breaks_the_rules_with_the_token_does_not_bring_it_to_light(clock, monkeypatch, capsys, answer):
    monkeypatch.setattr(rescale, "PATIENCE", 5)
    with Script(answer.encode()) as server, pytest.raises(rescale.RescaleError) as error:
        rescale.job_settings(f"http://127.0.0.1:{server.port}", TOKEN, JOB_ID)
    assert server.heads
    assert not leaks(whole_story(error.value) + capsys.readouterr().out)


FAILED = (("Executing", None), ("Completed", f"failed {KEY}"))


@pytest.mark.parametrize("padding", [0, *range(rescale.LOG_TAIL - 40, rescale.LOG_TAIL + 10, 10)])
def test_a_token_in_the_log_of_a_failed_job_is_not_shown(clock, capsys, padding):
    """Not even where only the end of a line is read."""
    log = f"export RESCALE_API_KEY={KEY}{'x' * padding}\nExited with code 3\n".encode()
    connect(Platform(FAILED, {"aLog": ("process_output.log", log)}, made_here=False))
    with pytest.raises(rescale.JobFailed, match="Exited with code 3") as error:
        rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    assert not leaks(whole_story(error.value) + "".join(error.value.log_lines) + error.value.reason)
    assert not leaks(capsys.readouterr().out)


def test_a_token_in_the_log_of_a_running_job_is_not_shown(clock, capsys):
    platform = Platform()
    platform.answers[f"jobs/{JOB_ID}/statuses/"] = history(("Executing", None))

    def answer(request):
        if "/tail/" in request.url:
            return 200, {"lines": [f"curl -H 'Authorization: {TOKEN}'", f"{KEY}{KEY}", "done"]}
        if clock.now > 100:
            raise Enough
        return platform(request)

    connect(answer)
    with pytest.raises(Enough):
        rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
    out = capsys.readouterr().out
    assert "done" in out
    assert not leaks(out)


# Files


def test_the_token_is_in_no_file_that_a_chain_leaves_or_sends(sim, access, capsys):
    """Though people write it into their script, and their script, copied, lies among the input files."""
    Watch(sim)
    script = f"import rescale_rest_api as rescale\nrescale_platform, my_token = {access!r}\n"
    for name in ("main.py", "main.py~", "main (copy).py", ".env", "old.txt"):
        Path(name).write_text(script, encoding="utf-8")
    holders = set(Path().iterdir())
    Path("steps.txt").write_text("zero\n", encoding="utf-8")
    token = sim.token.encode()
    rescale.platform_my_token(*access)
    inputs = rescale.upload_local_files(*access, rescale.create_tar_gz())
    for name, word in LINKS:
        job_id = rescale.job_setup(*access, name, f"env; {command(word)}", *SETTINGS, inputs)
        rescale.job_submit(*access, name, job_id)
        rescale.job_monitor(*access, job_id)
        inputs = rescale.file_previous_job(*access, job_id)
    rescale.job_download(*access, name, job_id)

    files = [path for path in Path().rglob("*") if path.is_file() and path not in holders]
    assert {path.suffix for path in files} >= {".job", ".gz", ".txt", ".uploaded"}
    assert [path for path in files if token in path.read_bytes()] == []
    for path in Path().rglob("*.tar.gz"):
        with tarfile.open(path) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            assert "steps.txt" in {Path(member.name).name for member in members}
            assert not any(token in archive.extractfile(member).read() for member in members)
    assert not any(sim.token in json.dumps(job.body) for job in sim.jobs.values())
    assert sim.token not in capsys.readouterr().out


# Encryption


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


class Secure(Served, http.server.ThreadingHTTPServer):
    """An encrypted platform with a certificate of our own making, that knows one job."""

    def __init__(self, authority: trustme.CA, name: str) -> None:
        asked = self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                asked.append(self.headers["Authorization"])
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(201)
                self.end_headers()
                self.wfile.write(b'{"id": "abCdEf"}')

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://localhost:{self.server_address[1]}"


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """The file of certificates that the user names."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "company.pem"))
    return tmp_path / "company.pem"


def test_an_unknown_certificate_ends_at_once_and_the_way_out_is_named(clock, authority):
    with Secure(authority, "localhost") as server, pytest.raises(rescale.RescaleError, match="REQUESTS_CA_BUNDLE"):
        CALLS["job_setup"](server.url)
    assert server.asked == []
    assert clock.now == 0


def test_the_way_out_is_one_but_for_the_right_name_only(clock, authority, bundle):
    authority.cert_pem.write_to_path(str(bundle))
    with Secure(authority, "localhost") as server:
        assert CALLS["job_setup"](server.url) == "abCdEf"
    assert server.asked == [TOKEN]
    with Secure(authority, "evil.example") as server, pytest.raises(rescale.RescaleError):
        CALLS["job_setup"](server.url)
    assert server.asked == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=["missing", "empty", "wrong"])
def test_a_bundle_that_is_none_is_named(clock, authority, bundle, content):
    if content is not None:
        bundle.write_bytes(content)
    with Secure(authority, "localhost") as server, \
            pytest.raises(rescale.RescaleError, match=r"company\.pem|REQUESTS_CA_BUNDLE"):
        CALLS["job_setup"](server.url)
    assert server.asked == []


def test_a_plain_server_behind_https_gets_nothing(clock, monkeypatch):
    monkeypatch.setattr(rescale, "PATIENCE", 5)
    monkeypatch.setattr(rescale, "CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr(rescale, "READ_TIMEOUT", 0.2)
    with Script(b"HTTP/1.1 200 OK\r\n\r\n") as server, pytest.raises(rescale.RescaleError):
        CALLS["job_setup"](f"https://localhost:{server.port}")
    assert not any(TOKEN.encode() in head for head in server.heads)


def test_no_request_switches_the_verification_off(sim, access, monkeypatch, run_job):
    verified = []
    send = requests.adapters.HTTPAdapter.send
    monkeypatch.setattr(
        requests.adapters.HTTPAdapter, "send",
        lambda *args, **options: (verified.append(options["verify"]), send(*args, **options))[1],
    )
    monkeypatch.setenv("CURL_CA_BUNDLE", "")
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    rescale.job_monitor(*access, run_job())
    assert set(verified) == {True}


# Proxies

PASSWORDS = ["hunter2", *(f"hunter2{sign}x" for sign in "#@/?%:[ ")]
DENIED = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
BROKEN = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("how", ["denied", "broken", "closed"])
@pytest.mark.parametrize("password", PASSWORDS)
def test_a_proxy_that_does_not_work_is_named_without_its_password(clock, monkeypatch, capsys, password, how):
    with Script(DENIED if how == "denied" else BROKEN) as proxy:
        port = proxy.port
        if how == "closed":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:{password}@127.0.0.1:{port}")
        with pytest.raises(rescale.RescaleError) as error:
            CALLS["job_setup"](PLATFORM)
    assert "hunter2" not in whole_story(error.value) + capsys.readouterr().out
    assert not any(leaks(head.decode()) for head in proxy.heads)
    assert "proxy" in str(error.value).lower()
    if password == "hunter2":
        assert f"127.0.0.1:{port}" in str(error.value)
        if how == "denied":
            assert "407" in str(error.value)
            assert clock.now == 0
            assert proxy.heads[0].startswith(b"CONNECT platform.example:443 ")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"])
def test_what_goes_to_this_computer_goes_past_the_proxy(set_up, monkeypatch, name):
    """A rehearsal sends the token unencrypted, but no further than to the simulator."""
    with Script(BROKEN) as proxy:
        monkeypatch.setenv(name, f"http://me:hunter2@127.0.0.1:{proxy.port}")
        set_up()
    assert proxy.heads == []
