"""1. platform_my_token: where address and key come from, and where the key must never get to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from rescale_simulator import Fault, Simulator

KEY = "0123456789abcdef0123456789abcdef01234567"
OTHER_KEY = "76543210fedcba9876543210fedcba9876543210"
KR, EU = "https://kr.rescale.com", "https://eu.rescale.com"


def write_apiconfig(text, mode=0o600):
    path = Path.home() / ".config" / "rescale" / "apiconfig"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def apiconfig(url, key, section="default"):
    return f"[{section}]\napibaseurl = {url}\napikey = {key}\n"


# Where they come from


def test_arguments_are_taken_as_they_are():
    assert rescale.platform_my_token(KR, f"Token {KEY}") == (KR, f"Token {KEY}")


def test_the_arguments_go_before_the_environment_and_the_environment_before_the_file(monkeypatch):
    write_apiconfig(apiconfig("https://file.example", "file-key-file-key"))
    assert rescale.platform_my_token() == ("https://file.example", "Token file-key-file-key")
    monkeypatch.setenv("RESCALE_API_URL", "https://environment.example")
    monkeypatch.setenv("RESCALE_API_KEY", "environment-key")
    assert rescale.platform_my_token() == ("https://environment.example", "Token environment-key")
    assert rescale.platform_my_token(KR, KEY) == (KR, f"Token {KEY}")


def test_address_and_key_are_looked_for_one_by_one(monkeypatch):
    write_apiconfig(apiconfig(KR, KEY))
    monkeypatch.setenv("RESCALE_API_URL", EU)
    assert rescale.platform_my_token() == (EU, f"Token {KEY}")
    assert rescale.platform_my_token(my_token=OTHER_KEY) == (EU, f"Token {OTHER_KEY}")


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


# What people leave at the end of an address


@pytest.mark.parametrize(
    "written",
    [
        "kr.rescale.com", "https://kr.rescale.com/", "https://kr.rescale.com//", "https://kr.rescale.com/api/v2/",
        "https://kr.rescale.com/api/v3", "kr.rescale.com/api/", " https://kr.rescale.com\n",
    ],
)
def test_the_address_is_put_right(written):
    assert rescale.platform_my_token(written, KEY)[0] == KR


@pytest.mark.parametrize(
    "written", ["http://127.0.0.1:8000/", "http://localhost:8000", "http://[::1]:8000/api/v2/"]
)
def test_http_is_allowed_on_this_computer(written):
    platform, _ = rescale.platform_my_token(written, KEY)
    assert platform == written.partition("/api")[0].rstrip("/")


@pytest.mark.parametrize(
    "written",
    [
        "http://kr.rescale.com", "HTTP://kr.rescale.com", "http://127.0.0.1.evil.example", "http://localhost.example",
        "http://127.0.0.1@evil.example", "http://1270.0.0.1",
    ],
)
def test_http_to_elsewhere_is_refused(written):
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.platform_my_token(written, KEY)
    assert written in str(refused.value)
    assert "https://" in str(refused.value)


@pytest.mark.parametrize(
    "written",
    [
        "ftp://kr.rescale.com", "https://", "https://kr.rescale.com/jobs/abc", "https://user:pw@kr.rescale.com",
        "https://kr.rescale.com?x=1", "https://kr.rescale.com:port", "https://kr rescale.com", "Token abc",
    ],
)
def test_what_is_no_address_is_named(written):
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.platform_my_token(written, KEY)
    assert written in str(refused.value)


# What is printed


def test_the_platform_and_four_characters_of_the_token_are_printed(capsys):
    rescale.platform_my_token(KR, KEY)
    out = capsys.readouterr().out
    assert KR in out
    assert "4567" in out
    assert KEY[-5:] not in out
    assert KEY[:4] not in out


def test_of_a_short_token_nothing_is_printed(capsys):
    rescale.platform_my_token(KR, "Zq9Xw7")
    out = capsys.readouterr().out
    assert all(pair not in out for pair in ("Zq", "q9", "9X", "Xw", "w7"))


@pytest.mark.parametrize(
    ("written", "token"),
    [
        (KEY, f"Token {KEY}"), (f"Token {KEY}", f"Token {KEY}"), (f"  Token  {KEY}\n", f"Token {KEY}"),
        ("Bearer eyJh.eyJz.SflK", "Bearer eyJh.eyJz.SflK"),
    ],
)
def test_the_token_comes_back_as_the_header_wants_it(written, token):
    assert rescale.platform_my_token(KR, written)[1] == token


# What is refused


@pytest.mark.parametrize("token", ["", " ", "Token", "Token ", None, 12345678, "two words", "Token a b", "Schlüssel99"])
def test_an_empty_or_impossible_token_is_refused_before_anything_is_sent(token, sim, fast):
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.platform_my_token(sim.url, token)
    assert "my_token" in str(refused.value)
    with pytest.raises(rescale.RescaleError, match="my_token"):
        rescale.job_monitor(sim.url, token, "LFZphb")
    assert sim.requests == []


def test_without_an_address_the_three_ways_to_give_one_are_named():
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.platform_my_token(None, KEY)
    assert all(way in str(refused.value) for way in ("rescale_platform", "RESCALE_API_URL", "apiconfig"))


def test_an_unknown_profile_is_answered_with_those_that_there_are():
    write_apiconfig(apiconfig(KR, KEY) + apiconfig(EU, OTHER_KEY, "eu"))
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.platform_my_token(profile="us")
    assert all(word in str(refused.value) for word in ("'us'", "default", "eu"))


def test_a_profile_without_a_file_names_the_file():
    with pytest.raises(rescale.RescaleError, match=r"'eu'.*apiconfig"):
        rescale.platform_my_token(profile="eu")


@pytest.mark.parametrize("text", [f"apikey = {KEY}\n", f"[default]\n{KEY}\n", f"[default\n{KEY}"])
def test_a_file_that_cannot_be_understood_is_named_but_not_quoted(text):
    path = write_apiconfig(text)
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.platform_my_token()
    assert str(path) in str(refused.value) or "apiconfig" in str(refused.value)
    error = refused.value
    while error:  # the whole chain is printed with a traceback
        assert KEY not in f"{error!r} {error}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


# A rehearsal


def test_a_rehearsal_goes_to_its_simulator_and_nowhere_else(monkeypatch, sim, fast, tmp_path):
    write_apiconfig(apiconfig(KR, KEY))
    with Simulator(tmp_path / "paid", speed=0) as paid:
        monkeypatch.setenv("RESCALE_REHEARSAL", sim.url)
        monkeypatch.setenv("RESCALE_API_URL", sim.url)
        monkeypatch.setenv("RESCALE_API_KEY", sim.token)
        assert rescale.platform_my_token() == (sim.url, f"Token {sim.token}")
        for platform in (paid.url, KR):
            with pytest.raises(rescale.RescaleError, match="rehearsal"):
                rescale.platform_my_token(platform, KEY)
            with pytest.raises(rescale.RescaleError, match="rehearsal"):
                rescale.job_submit(platform, f"Token {paid.token}", "job", "LFZphb")
        assert paid.requests == []
        assert not Path("job.desktop").exists()


def test_a_rehearsal_follows_no_redirect_out_of_it(monkeypatch, access, clock, sim, ended_job):
    monkeypatch.setenv("RESCALE_REHEARSAL", sim.url)
    job_id = ended_job({"rescale.tar.gz": b"1"})
    sim.faults.append(Fault("redirect", path="contents", times=1000, location="https://storage.example/a"))
    with pytest.raises(rescale.RescaleError, match="redirected to storage.example"):
        rescale.job_download(*access, "job", job_id)


def test_a_rehearsal_never_takes_the_key_of_the_file(monkeypatch, sim):
    write_apiconfig(apiconfig(KR, KEY))
    monkeypatch.setenv("RESCALE_REHEARSAL", sim.url)
    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    with pytest.raises(rescale.RescaleError, match="my_token"):
        rescale.platform_my_token()


# Where the token must not get to


def test_a_wrong_token_is_refused_at_once_and_not_shown(sim, fast, capsys):
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.job_monitor(sim.url, f"Token {KEY}", "LFZphb")
    assert "401" in str(refused.value)
    assert "Invalid token" in str(refused.value)
    assert KEY not in str(refused.value) + capsys.readouterr().out
    assert len(sim.requests) == 1


def test_a_token_that_the_server_sends_back_is_not_shown(access, sim, set_up, capsys):
    job_id = set_up(command=f"echo {sim.token}; exit 3\n")
    rescale.job_submit(*access, "job", job_id)
    with pytest.raises(rescale.JobFailed) as failed:
        rescale.job_monitor(*access, job_id)
    assert "Exited with code 3" in str(failed.value)
    assert sim.token not in f"{failed.value}{failed.value.log_lines}"
    with pytest.raises(rescale.RescaleError) as refused:
        set_up(code_name=sim.token)
    assert "There is no analysis" in str(refused.value)
    assert sim.token not in str(refused.value) + capsys.readouterr().out


def test_the_token_follows_no_redirect_to_another_host(access, clock, sim, run_job, tmp_path):
    job_id = run_job("echo 1 > result\n")
    with Simulator(tmp_path / "other", speed=0) as other:
        sim.contents_redirect = True
        rescale.job_download(*access, "job", job_id)
        assert sim.storage_requests
        assert not any("Authorization" in record.headers for record in sim.storage_requests)

        sim.faults.append(Fault("redirect", path="statuses", times=99, location=f"{other.url}/api/v2/jobs/"))
        with pytest.raises(rescale.RescaleError):
            rescale.job_submit(*access, "job", job_id)
        assert not any("Authorization" in record.headers for record in other.requests)


def test_the_token_follows_no_next_page_to_another_host(access, sim, ended_job, tmp_path):
    job_id = ended_job({f"out{number}": b"x" for number in range(5)})
    with Simulator(tmp_path / "other", speed=0) as other:
        sim.next_foreign, sim.page_size_cap = other.url, 2
        assert len(rescale.job_download(*access, "job", job_id)) == 5
        assert other.requests == []


def test_a_password_in_netrc_does_not_replace_the_token(access, sim, set_up):
    netrc = Path.home() / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    set_up()
    assert {record.headers["Authorization"] for record in sim.requests} == {f"Token {sim.token}"}
