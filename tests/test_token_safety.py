"""Whoever is after the token - another host, a proxy, a file, a reader of the screen - does not get it."""

from __future__ import annotations

import contextlib
import http.server
import json
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
from in_memory import KEY, PLATFORM, TOKEN, connect, stopped_clock
from rescale_simulator import Simulator
from two_jobs import LINKS, Watch, command

SETTINGS = ("user_included", "0", {}, "emerald", 1, 1, 1, None)
PARTS = [KEY[start : start + 12] for start in range(len(KEY) - 11)]  # the last four characters may be shown


def leaks(text: str) -> bool:
    return any(part in text for part in PARTS)


def whole_story(error: BaseException) -> str:
    """All that can be seen of an error: what an uncaught one prints, and what a script can look at."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)) + f"{error!r} {vars(error)}"


@pytest.fixture
def idle(monkeypatch):
    """A clock for waits of hours: they take no time at all."""
    clock = stopped_clock()
    monkeypatch.setattr(rescale, "time", clock)
    return clock


CALLS = {
    "upload_local_files": lambda platform: rescale.upload_local_files(platform, TOKEN, __file__),
    "job_setup": lambda platform: rescale.job_setup(platform, TOKEN, "job", "true", *SETTINGS, []),
    "job_submit": lambda platform: rescale.job_submit(platform, TOKEN, "job", "abCdEf"),
    "job_monitor": lambda platform: rescale.job_monitor(platform, TOKEN, "abCdEf"),
    "job_download": lambda platform: rescale.job_download(platform, TOKEN, "job", "abCdEf"),
    "file_previous_job": lambda platform: rescale.file_previous_job(platform, TOKEN, "abCdEf"),
    "job_settings": lambda platform: rescale.job_settings(platform, TOKEN, "abCdEf"),
    "check_settings": lambda platform: rescale.check_settings(platform, TOKEN, *SETTINGS),
    "job_stop": lambda platform: rescale.job_stop(platform, TOKEN, "abCdEf"),
    "chain_overview": lambda platform: rescale.chain_overview(platform, TOKEN, {"job": "abCdEf"}),
}
EXCEPT_MONITOR = [call for call in CALLS if call != "job_monitor"]  # which goes on for ever where others give up


class Enough(BaseException):
    """Ends what would go on for ever."""


# Other hosts

ELSEWHERE = [
    "https://evil.example/", "//evil.example/x", "https://platform.example:8443/", "http://platform.example/",
    "https://platform.example@evil.example/", "https://evil.example\\@platform.example/",
    "https://evil.example#@platform.example/",
    "https://evil.example?@platform.example/", "https://platform.example.evil.example/", "https:evil.example/",
    "https://xplatform.example/", "https://platform.example.:443/", "https:///evil.example/", "HTTP://platform.example/",
    "https://evil.example;@platform.example/", "https://[::1]/", "https://evil.example%2f@platform.example/",
    "\thttps://evil.example/",
]


@pytest.mark.parametrize("location", ELSEWHERE)
@pytest.mark.parametrize("call", CALLS)
def test_the_token_is_redirected_nowhere_else(idle, call, location):
    """Where requests would really go decides, not how the library reads the address."""
    seen = []

    def answer(request: requests.PreparedRequest) -> tuple:
        address = parse_url(request.url)
        seen.append((address.scheme, address.host, address.port or {"https": 443, "http": 80}[address.scheme]))
        if seen[-1] != ("https", "platform.example", 443):
            assert not leaks(str(request.headers) + request.url + str(request.body)), request.url
        if len(seen) > 100:
            raise Enough
        return 302, b"", {"Location": location}

    connect(answer)
    with contextlib.suppress(rescale.RescaleError, Enough):
        CALLS[call](PLATFORM)

    assert seen[0] == ("https", "platform.example", 443)


FILE = {
    "id": "arChiv", "name": "rescale.tar.gz", "relativePath": "rescale.tar.gz", "decryptedSize": 3, "isUploaded": True,
    "path": "x/rescale.tar.gz", "typeId": 5, "md5": None, "fileChecksums": [],
    "downloadUrl": "https://evil.example/api/v2/files/arChiv/contents/",
}


@pytest.mark.parametrize("location", [
    "https://storage.example/a?signature=1", "https://platform.example:8443/a",
    "https://storage.example\\@platform.example/a",
])
def test_the_object_storage_gets_the_request_but_not_the_token(idle, location):
    asked = []

    def answer(request: requests.PreparedRequest) -> tuple:
        asked.append(request)
        if not request.url.startswith(f"{PLATFORM}/"):
            return 200, b"abc", {"Content-Type": "application/octet-stream"}
        if "/contents/" in request.url:
            return 302, b"", {"Location": location}
        return 200, {"results": [FILE], "next": None}

    connect(answer)
    [path] = rescale.job_download(PLATFORM, TOKEN, "job", "abCdEf")

    assert path.read_bytes() == b"abc"
    [elsewhere] = [request for request in asked if parse_url(request.url).netloc != "platform.example"]
    assert parse_url(elsewhere.url).netloc in ("storage.example", "platform.example:8443")
    assert "Authorization" not in elsewhere.headers
    assert all(request.headers["Authorization"] == TOKEN for request in asked if request is not elsewhere)


@pytest.mark.parametrize("host", ["storage.example", "127.0.0.1", "localhost"])
def test_an_encrypted_download_is_never_redirected_to_an_unencrypted_one(idle, host):
    def answer(request: requests.PreparedRequest) -> tuple:
        assert request.url.startswith("https://")
        if "/contents/" in request.url:
            return 302, b"", {"Location": f"http://{host}/a"}
        return 200, {"results": [FILE], "next": None}

    connect(answer)

    with pytest.raises(rescale.RescaleError, match=f"redirected to {host}"):
        rescale.job_download(PLATFORM, TOKEN, "job", "abCdEf")


def test_the_download_url_of_a_file_is_not_asked_for(idle):
    hosts = set()

    def answer(request: requests.PreparedRequest) -> tuple:
        hosts.add(parse_url(request.url).netloc)
        return (200, b"abc") if "/contents/" in request.url else (200, {"results": [FILE], "next": None})

    connect(answer)
    rescale.job_download(PLATFORM, TOKEN, "job", "abCdEf")

    assert hosts == {"platform.example"}


def test_neither_port_nor_name_of_this_computer_is_mistaken_for_the_platforms(sim, access, tmp_path):
    """127.0.0.1 and localhost are two hosts, and so are two ports of one."""
    with Simulator(tmp_path / "other", token=sim.token, speed=0) as other:
        job_id = rescale.job_setup(*access, "job", "true", *SETTINGS, [])
        rescale.job_submit(*access, "job", job_id)
        rescale.job_monitor(*access, job_id)
        for foreign in (other.url, sim.url.replace("127.0.0.1", "localhost")):
            sim.page_size_cap, sim.next_foreign = 1, foreign
            rescale.job_monitor(*access, job_id)

    assert not other.requests
    assert {record.headers["Host"] for record in sim.requests} == {sim.url.partition("://")[2]}


def test_a_password_in_netrc_goes_neither_to_the_platform_nor_to_the_storage(sim, access):
    netrc = Path.home() / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\ndefault login me password hunter2\n")
    netrc.chmod(0o600)
    sim.contents_redirect = True
    Watch(sim)
    job_id = rescale.job_setup(*access, "job", command("one"), *SETTINGS, [])
    rescale.job_submit(*access, "job", job_id)
    rescale.job_monitor(*access, job_id)
    rescale.job_download(*access, "job", job_id)

    assert {record.headers["Authorization"] for record in sim.requests} == {f"Token {sim.token}"}
    assert sim.storage_requests
    assert not any("Authorization" in record.headers for record in sim.storage_requests)


# Screen and errors


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 503])
@pytest.mark.parametrize("call", EXCEPT_MONITOR)
def test_a_platform_that_sends_the_token_back_does_not_bring_it_to_light(idle, capsys, call, status):
    bodies = [
        {"detail": f"Invalid token {KEY}"}, {KEY: {KEY: [KEY]}}, {"results": [KEY], "id": KEY}, KEY.encode(),
        f"<p>{TOKEN}</p>".encode(),
        {"results": [{"status": KEY, "id": KEY, "name": KEY, "decryptedSize": KEY}], "next": f"?page={KEY}"},
    ]
    for body in bodies:
        connect(lambda request, body=body: (status, body, {"X-Key": KEY, "Content-Type": f"text/{KEY}"}))
        try:
            CALLS[call](PLATFORM)
        except rescale.RescaleError as error:
            story = whole_story(error)
        else:
            story = ""
        assert not leaks(story)
    captured = capsys.readouterr()

    assert not leaks(captured.out + captured.err)
    assert not any(leaks(path.read_text(errors="replace")) for path in Path().rglob("*") if path.is_file())


@pytest.mark.parametrize("before", [*range(200, 300, 20), *range(900, 1000, 20)])
@pytest.mark.parametrize("status", [400, 503])
def test_a_text_that_is_cut_short_is_not_cut_within_the_token(idle, capsys, before, status):
    for body in ({"detail": "x" * before + KEY + "y" * 2000}, ("x" * before + KEY + "y" * 2000).encode()):
        connect(lambda request, body=body: (status, body, {"Content-Type": "text/plain"}))
        with pytest.raises(rescale.RescaleError) as error:
            rescale.job_stop(PLATFORM, TOKEN, "abCdEf")
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


class Script(socketserver.ThreadingTCPServer):
    """A server that reads a request's head and answers with these bytes, whatever they are."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, answer: bytes, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        server, self.heads = self, []

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                head = b""
                for line in self.rfile:
                    head += line
                    if line == b"\r\n":
                        break
                server.heads.append(head)
                with contextlib.suppress(OSError):
                    self.wfile.write(answer)

        super().__init__(address, Handler)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        super().__exit__()


@pytest.mark.parametrize("answer", RAW_ANSWERS, ids=range(len(RAW_ANSWERS)))
def test_a_server_that_breaks_the_rules_with_the_token_does_not_bring_it_to_light(idle, monkeypatch, capsys, answer):
    monkeypatch.setattr(rescale, "PATIENCE", 5)
    with Script(answer.encode()) as server, pytest.raises(rescale.RescaleError) as error:
        rescale.job_settings(f"http://127.0.0.1:{server.port}", TOKEN, "abCdEf")

    assert server.heads
    assert not leaks(whole_story(error.value) + capsys.readouterr().out)


STATUSES = [{"status": "Completed", "statusReason": f"failed {KEY}"}, {"status": "Executing"}]  # newest first


@pytest.mark.parametrize("padding", [0, *range(rescale.LOG_TAIL - 40, rescale.LOG_TAIL + 10, 10)])
def test_a_token_in_the_log_of_a_failed_job_is_not_shown(idle, capsys, padding):
    """Not even where only the end of a line is read."""
    log = f"export RESCALE_API_KEY={KEY}{'x' * padding}\nExited with code 3\n".encode()

    def answer(request: requests.PreparedRequest) -> tuple:
        if "/contents/" in request.url:
            first = int(request.headers["Range"].partition("=")[2].partition("-")[0])
            return 206, log[first:], {"Content-Range": f"bytes {first}-{len(log) - 1}/{len(log)}"}
        if "/statuses/" in request.url:
            return 200, {"results": STATUSES, "next": None}
        file = {**FILE, "name": "process_output.log", "relativePath": "process_output.log", "decryptedSize": len(log)}
        return 200, {"results": [file], "next": None}

    connect(answer)
    with pytest.raises(rescale.JobFailed) as error:
        rescale.job_monitor(PLATFORM, TOKEN, "abCdEf")

    assert "Exited with code 3" in str(error.value)
    assert not leaks(whole_story(error.value) + "".join(error.value.log_lines) + error.value.reason)
    assert not leaks(capsys.readouterr().out)


def test_a_token_in_the_log_of_a_running_job_is_not_shown(idle, capsys):
    def answer(request: requests.PreparedRequest) -> tuple:
        if "/tail/" in request.url:
            return 200, {"lines": [f"curl -H 'Authorization: {TOKEN}'", f"{KEY}{KEY}", "done"]}
        if idle.now > 1e6 + 100:
            raise Enough
        return 200, {"results": STATUSES[1:], "next": None}

    connect(answer)
    with pytest.raises(Enough):
        rescale.job_monitor(PLATFORM, TOKEN, "abCdEf")

    out = capsys.readouterr().out
    assert "done" in out
    assert not leaks(out)


# Files


def test_the_token_is_in_no_file_that_a_chain_leaves_or_sends(sim, access, capsys):
    """Though people write it into their script, and their script lies among the input files."""
    Watch(sim)
    script = f"import rescale_rest_api as rescale\nrescale_platform, my_token = {access!r}\n"
    Path("main.py").write_text(script, encoding="utf-8")
    Path("rescale_rest_api.py").write_text(f"TOKEN = {sim.token!r}\n", encoding="utf-8")
    Path("steps.txt").write_text("zero\n", encoding="utf-8")
    token = sim.token.encode()
    rescale.platform_my_token(*access)
    job_id = None
    for name, word in LINKS:
        inputs = (
            rescale.file_previous_job(*access, job_id) if job_id
            else rescale.upload_local_files(*access, rescale.create_tar_gz())
        )
        job_id = rescale.job_setup(*access, name, f"env; {command(word)}", *SETTINGS, inputs)
        rescale.job_submit(*access, name, job_id)
        rescale.job_monitor(*access, job_id)
    rescale.job_download(*access, name, job_id)

    files = [path for path in Path().rglob("*") if path.is_file() and path.suffix != ".py"]
    assert {path.suffix for path in files} >= {".job", ".gz", ".txt"}
    assert [path for path in files if token in path.read_bytes()] == []
    for path in Path().rglob("*.tar.gz"):
        with tarfile.open(path) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            assert "steps.txt" in {Path(member.name).name for member in members}
            assert not any(token in archive.extractfile(member).read() for member in members)
    assert not any(sim.token in json.dumps(job.body) for job in sim.jobs.values())
    assert sim.token not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["main.py.bak", "main.py~", "main (copy).py", ".env", "apiconfig", "old.txt"])
def test_a_copy_of_a_script_with_the_token_in_it_does_not_travel(access, sim, name, capsys):
    """Results are shared with colleagues, and the input files with them."""
    rescale.platform_my_token(*access)
    Path(name).write_text(f"rescale_platform, my_token = {access!r}\n", encoding="utf-8")
    Path("steps.txt").write_text("zero\n", encoding="utf-8")

    with contextlib.suppress(rescale.RescaleError):  # it may also refuse
        rescale.create_tar_gz()
        with tarfile.open("rescale.tar.gz") as archive:
            assert archive.getnames() == ["steps.txt"]

    assert name in capsys.readouterr().out


# Encryption


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


class Secure(http.server.ThreadingHTTPServer):
    """An encrypted platform with a certificate of our own making, that knows one job."""

    def __init__(self, authority: trustme.CA, name: str) -> None:
        asked = self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked.append(self.headers["Authorization"])
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(201)
                self.end_headers()
                self.wfile.write(b'{"id": "abCdEf"}')

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://localhost:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        super().__exit__()


@pytest.fixture
def bundle(authority, tmp_path):
    authority.cert_pem.write_to_path(str(tmp_path / "company.pem"))
    return tmp_path / "company.pem"


def test_an_unknown_certificate_ends_at_once_and_the_way_out_is_named(idle, authority):
    began = idle.now
    with Secure(authority, "localhost") as server, \
            pytest.raises(rescale.RescaleError, match="REQUESTS_CA_BUNDLE") as error:
        rescale.job_setup(server.url, TOKEN, "job", "true", *SETTINGS, [])

    assert "certificate" in str(error.value).lower()
    assert server.asked == []
    assert idle.now == began


def test_the_way_out_is_one(idle, authority, bundle, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with Secure(authority, "localhost") as server:
        assert rescale.job_setup(server.url, TOKEN, "job", "true", *SETTINGS, []) == "abCdEf"

    assert server.asked == [TOKEN]


def test_a_certificate_for_another_name_is_refused(idle, authority, bundle, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with Secure(authority, "evil.example") as server, pytest.raises(rescale.RescaleError):
        rescale.job_setup(server.url, TOKEN, "job", "true", *SETTINGS, [])

    assert server.asked == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_bundle_that_is_none_is_named(idle, authority, tmp_path, monkeypatch, content):
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with Secure(authority, "localhost") as server, \
            pytest.raises(rescale.RescaleError, match=r"bundle\.pem|REQUESTS_CA_BUNDLE"):
        rescale.job_setup(server.url, TOKEN, "job", "true", *SETTINGS, [])

    assert server.asked == []


def test_a_plain_server_behind_https_gets_nothing(idle, monkeypatch):
    monkeypatch.setattr(rescale, "PATIENCE", 5)
    monkeypatch.setattr(rescale, "CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr(rescale, "READ_TIMEOUT", 0.2)
    with Script(b"HTTP/1.1 200 OK\r\n\r\n") as server, pytest.raises(rescale.RescaleError):
        rescale.job_setup(f"https://localhost:{server.port}", TOKEN, "job", "true", *SETTINGS, [])

    assert not any(TOKEN.encode() in head for head in server.heads)


def test_no_request_switches_the_verification_off(sim, access, monkeypatch):
    verified = []
    send = requests.adapters.HTTPAdapter.send
    monkeypatch.setattr(
        requests.adapters.HTTPAdapter, "send",
        lambda *args, **options: (verified.append(options["verify"]), send(*args, **options))[1],
    )
    monkeypatch.setenv("CURL_CA_BUNDLE", "")
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    job_id = rescale.job_setup(*access, "job", "true", *SETTINGS, [])
    rescale.job_submit(*access, "job", job_id)
    rescale.job_monitor(*access, job_id)

    assert verified
    assert all(value is True for value in verified)


# Proxies

PASSWORDS = ["hunter2", *(f"hunter2{sign}x" for sign in "#@/?%:[ ")]


def set_proxy(monkeypatch, port: int, password: str = "hunter2", name: str = "HTTPS_PROXY") -> None:
    monkeypatch.setenv(name, f"http://me:{password}@127.0.0.1:{port}")


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_proxy_that_wants_another_password_is_named_without_the_one_it_got(idle, monkeypatch, capsys, password):
    answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
    with Script(answer) as proxy:
        set_proxy(monkeypatch, proxy.port, password)
        began = idle.now
        with pytest.raises(rescale.RescaleError) as error:
            rescale.job_setup(PLATFORM, TOKEN, "job", "true", *SETTINGS, [])

    assert idle.now == began
    assert "proxy" in str(error.value).lower()
    assert "hunter2" not in whole_story(error.value) + capsys.readouterr().out
    assert not any(leaks(head.decode()) for head in proxy.heads)
    if password == "hunter2":
        assert "407" in str(error.value)
        assert f"127.0.0.1:{proxy.port}" in str(error.value)
        assert proxy.heads[0].startswith(b"CONNECT platform.example:443 ")


@pytest.mark.parametrize("how", ["closed", "502"])
@pytest.mark.parametrize("password", PASSWORDS)
def test_a_proxy_that_does_not_work_is_named_without_its_password(idle, monkeypatch, capsys, password, how):
    with Script(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n") as proxy:
        port = proxy.port
        if how == "closed":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
        set_proxy(monkeypatch, port, password)
        with pytest.raises(rescale.RescaleError) as error:
            rescale.job_setup(PLATFORM, TOKEN, "job", "true", *SETTINGS, [])

    assert "hunter2" not in whole_story(error.value) + capsys.readouterr().out
    if password == "hunter2":
        assert f"127.0.0.1:{port}" in str(error.value)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"])
def test_what_goes_to_this_computer_goes_past_the_proxy(sim, access, monkeypatch, name):
    """A rehearsal sends the token unencrypted, but no further than to the simulator."""
    with Script(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n") as proxy:
        set_proxy(monkeypatch, proxy.port, name=name)
        rescale.job_setup(*access, "job", "true", *SETTINGS, [])

    assert proxy.heads == []
