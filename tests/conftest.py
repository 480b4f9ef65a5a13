"""What the tests share: a simulator of their own, and a clock that makes waiting short."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import rescale_rest_api as rescale  # noqa: E402
from rescale_simulator import Simulator  # noqa: E402

SPEED = 200  # library seconds per real second: a polling step takes 25 ms, ten minutes of patience 3 s


@pytest.fixture(autouse=True)
def clean_surroundings(tmp_path, monkeypatch):
    """A home and a working folder of the test's own, and nothing of this machine's Rescale or proxy settings."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name in ("RESCALE_API_URL", "RESCALE_API_KEY", "RESCALE_REHEARSAL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",
                 "http_proxy", "https_proxy", "all_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "here"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    while rescale._claims:
        rescale._claims.popitem()[1].close()
    rescale._secrets.clear()
    rescale._session.cache_clear()


@pytest.fixture
def fast(monkeypatch):
    """Time that runs SPEED times as fast for the library, and short timeouts on its sockets."""
    clock = SimpleNamespace(
        sleep=lambda seconds: time.sleep(seconds / SPEED), monotonic=lambda: time.monotonic() * SPEED, time=time.time
    )
    monkeypatch.setattr(rescale, "time", clock)
    monkeypatch.setattr(rescale, "CONNECT_TIMEOUT", 1)
    monkeypatch.setattr(rescale, "READ_TIMEOUT", 0.5)
    monkeypatch.setattr(rescale, "UPLOAD_TIMEOUT", 1)
    return clock


@pytest.fixture
def sim(tmp_path):
    """A simulator without waits."""
    with Simulator(tmp_path / "platform", speed=0) as simulator:
        yield simulator


@pytest.fixture
def access(sim, fast):
    """Platform and token as the guide's functions take them, in fast time."""
    return sim.url, f"Token {sim.token}"
