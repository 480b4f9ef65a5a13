"""What the fault tests share: a transport without sockets, and a clock on which three days take no time.

The simulator is the better server, for it is a real one. This is for what it cannot do: answers that no platform
gives, seventy thousand of them, or ones from a host of another name.
"""

from __future__ import annotations

import io
import json
import os
from types import SimpleNamespace
from typing import Any, Callable

import requests
import urllib3
from requests.adapters import HTTPAdapter

import rescale_rest_api as rescale

PLATFORM = "https://platform.example"
KEY = "c0ffee00c0ffee11c0ffee22c0ffee33c0ffee44"
TOKEN = f"Token {KEY}"


class Transport(HTTPAdapter):
    """Hands every request to `answer`, which returns (status, body) or (status, body, headers), or raises."""

    def __init__(self, answer: Callable[[requests.PreparedRequest], tuple]) -> None:
        super().__init__()
        self.answer = answer
        self.count = 0

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        self.count += 1
        status, body, *headers = self.answer(request)
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        raw = urllib3.HTTPResponse(
            io.BytesIO(body), {"Content-Type": "application/json", **(headers[0] if headers else {})}, status,
            reason="", preload_content=False,
        )
        return self.build_response(request, raw)


def connect(answer: Callable[[requests.PreparedRequest], tuple]) -> Transport:
    """Put `answer` in the place of the network, for every host."""
    transport = Transport(answer)
    session = rescale._session(os.getpid())
    for scheme in ("https://", "http://"):
        session.mount(scheme, transport)
    return transport


def stopped_clock() -> SimpleNamespace:
    """A clock that only sleeping advances; `now` is in seconds."""
    clock = SimpleNamespace(now=1e6, time=lambda: 1e9 + clock.now, monotonic=lambda: clock.now)

    def sleep(seconds: float) -> None:
        assert seconds >= 0
        clock.now += seconds

    clock.sleep = sleep
    return clock
