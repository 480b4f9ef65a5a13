"""A transport without sockets, for what the simulator cannot do.

The simulator is the better server, for it is a real one. This is for answers that no platform gives, seventy thousand
of them, or ones from a host of another name. Time is conftest.Clock's.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from typing import Any, Callable

import requests
import urllib3
from requests.adapters import HTTPAdapter

import rescale_rest_api as rescale

PLATFORM = "https://platform.example"
KEY = "c0ffee00c0ffee11c0ffee22c0ffee33c0ffee44"
TOKEN = f"Token {KEY}"
JOB_ID = "abCdEf"
SUCCESS = (("Pending", None), ("Queued", None), ("Executing", None), ("Completed", "Completed successfully"))
FILES = {"arChiv": ("rescale.tar.gz", b"the archive")}
HTML = {"Content-Type": "text/html"}


class Transport(HTTPAdapter):
    """Hands every request to `answer`, which returns (status, body) or (status, body, headers), or raises.

    A body is bytes, something to read bytes from, or whatever JSON can hold.
    """

    def __init__(self, answer: Callable[[requests.PreparedRequest], tuple]) -> None:
        super().__init__()
        self.answer = answer
        self.count = 0

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        self.count += 1
        status, body, *headers = self.answer(request)
        if not isinstance(body, (bytes, io.IOBase)):
            body = json.dumps(body).encode()
        body = io.BytesIO(body) if isinstance(body, bytes) else body
        all_headers = {"Content-Type": "application/json", **(headers[0] if headers else {})}
        raw = urllib3.HTTPResponse(body, all_headers, status, reason="", preload_content=False)
        return self.build_response(request, raw)


def connect(answer: Callable[[requests.PreparedRequest], tuple]) -> Transport:
    """Put `answer` in the place of the network, for every host."""
    transport = Transport(answer)
    session = rescale._session(os.getpid())
    for scheme in ("https://", "http://"):
        session.mount(scheme, transport)
    return transport


def a_list(*items: dict) -> dict:
    return {"count": len(items), "next": None, "previous": None, "results": list(items)}


def a_file(file_id: str, path: str, content: bytes) -> dict:
    return {
        "id": file_id, "name": path.rpartition("/")[2], "typeId": 5, "path": f"user/x/output/{path}",
        "relativePath": path, "decryptedSize": len(content), "isUploaded": True, "isDeleted": False,
        "md5": hashlib.md5(content).hexdigest(),
        "fileChecksums": [{"hashFunction": "sha512", "fileHash": hashlib.sha512(content).hexdigest()}],
    }


def history(*statuses: tuple[str, str | None]) -> dict:
    return a_list(*reversed([
        {"status": status, "statusReason": reason, "statusDate": f"2026-01-02T03:04:{second:02}.5+00:00"}
        for second, (status, reason) in enumerate(statuses)
    ]))


class Platform:
    """One job that has ended and its files, by their ids; `answers`, by path, are for a test to change."""

    def __init__(self, statuses: Any = SUCCESS, files: dict = FILES, made_here: bool = True) -> None:
        self.contents = {file_id: content for file_id, (_, content) in files.items()}
        head = rescale.OURS if made_here else ""
        self.answers: dict[str, Any] = {
            f"jobs/{JOB_ID}/": {"id": JOB_ID, "jobanalyses": [{"command": f"{head}true", "inputFiles": []}]},
            f"jobs/{JOB_ID}/statuses/": history(*statuses),
            f"jobs/{JOB_ID}/files/": a_list(*(a_file(file_id, *file) for file_id, file in files.items())),
        }

    def __call__(self, request: requests.PreparedRequest) -> tuple:
        path = str(request.url).partition("/api/v2/")[2].partition("?")[0]
        found = re.fullmatch(r"files/(\w+)/contents/", path)
        if not found:
            return (200, self.answers[path]) if path in self.answers else (404, {"detail": "Not found."})
        content, headers = self.contents.get(found[1], b""), {"Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if not wanted:
            return 200, content, headers
        first, last = map(int, wanted.groups())
        return 206, content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
