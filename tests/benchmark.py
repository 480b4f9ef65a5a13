#!/usr/bin/env python3
"""Measure packing, sending, fetching and waiting beside what else could do it, on this computer.

    python tests/benchmark.py            one table in some four minutes; exit status 1 if a limit is broken
    python tests/benchmark.py --quick    less data, one run and no limits: shows that all of it works

What has a limit was promised. Times are medians of several runs; ours and the reference take turns, and a ratio is the
median of the pairs' ratios, for the computer may have other things to do meanwhile. Every run is a process of its own,
for the sake of its memory, and ends when its file is on the disk. In TMPDIR 6 GB must be free.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import functools
import hashlib
import http.server
import io
import json
import math
import mmap
import multiprocessing
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import requests
from requests_toolbelt.multipart.encoder import MultipartEncoder

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import in_memory  # noqa: E402
import rescale_rest_api as rescale  # noqa: E402

MB = 1 << 20  # bytes
# Forked from a process that has imported all and done nothing: this one has the memory of what it has done.
FORKS = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
FORKS.set_forkserver_preload(["multiprocessing.pool", "requests", "requests_toolbelt"])
TOKEN = f"Token {'0123456789abcdef' * 2}"
MEMORY = 64  # MB that a run may take at most, Python and its packages included
LINE = 25_000_000  # bytes per second and connection, what an office's line to another continent gives
SMALL = 10_000  # bytes of a small file
PHASES = (0.1, 0.45, 0.8)  # how far into a polling step the jobs of the chain end


class Size(NamedTuple):
    """How much is measured, and how often."""

    runs: int
    inputs: tuple[int, int, int]  # bytes of the text mesh deck, bytes of the binary field, small files
    large: int  # bytes of a file to send and to fetch on a fast line
    limited: int  # bytes of one to fetch on a limited line
    upload: int  # bytes of one to send on a limited line, and to send again
    step: float  # seconds between two looks at a job's status
    interval: float  # and at its files


FULL = Size(3, (150_000_000, 100_000_000, 200), 2048 * MB, 400_000_000, 400_000_000, rescale.STATUS_INTERVAL,
            rescale.FILES_INTERVAL)
QUICK = Size(1, (3_000_000, 2_000_000, 20), 80 * MB, 10_000_000, 70_000_000, 0.5, 0.1)


class Figure(NamedTuple):
    """What one run took."""

    seconds: float
    memory: float  # MB at most; nan where that cannot be told


class Row(NamedTuple):
    """A line of the table; `kept` is None where nothing was promised or there is no reference."""

    what: str
    ours: str
    reference: str = ""
    ratio: str = ""
    limit: str = ""
    kept: bool | None = None


# Measuring


def run(function: Callable[..., Any], *arguments: Any) -> Figure:
    """Call a function in a new process, once what others have written is on the disk."""
    os.sync()
    with FORKS.Pool(1) as pool:
        return pool.apply(measured, (function, arguments))


def measured(function: Callable[..., Any], arguments: tuple) -> Figure:
    """Call a function without its output, and measure this process."""
    with contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        function(*arguments)
        took = time.perf_counter() - began
    status = Path("/proc/self/status")  # of Linux; its ru_maxrss would be the parent's
    peak = re.search(r"VmHWM:\s+(\d+)", status.read_text() if status.exists() else "")
    return Figure(took, int(peak[1]) / 1024 if peak else math.nan)


def in_turns(runs: int, *tasks: tuple) -> list[list[Figure]]:
    """Run each (function, *arguments) several times, one after the other in changing order."""
    figures: list[list[Figure]] = [[] for _ in tasks]
    for number in range(runs):
        for task, done in list(zip(tasks, figures))[:: -1 if number % 2 else 1]:
            done.append(run(*task))
    return figures


def seconds(*values: float) -> str:
    """The middle one of some times, with three digits."""
    value = statistics.median(values)
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def median(figures: list[Figure]) -> str:
    return seconds(*(figure.seconds for figure in figures))


def beside(what: str, ours: list[Figure], reference: list[Figure], name: str, limit: float | None = None) -> Row:
    """A row of two times; the limit is one of the ratio."""
    ratio = statistics.median(a.seconds / b.seconds for a, b in zip(ours, reference))
    return Row(what, median(ours), f"{median(reference)} {name}", f"{ratio:.2f}",
               f"<= {limit:.3g}" if limit else "", ratio <= limit if limit else None)


def memory(figures: list[Figure]) -> Row:
    """A row of the most memory of all runs."""
    most = max(figure.memory for figure in figures)
    return Row("    memory", f"{most:.0f} MB", "", "", f"<= {MEMORY} MB", None if math.isnan(most) else most <= MEMORY)


def print_table(rows: list[Row]) -> None:
    """The one table."""
    table = [Row._fields, *((*row[:5], {True: "YES", False: "NO", None: ""}[row.kept]) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    table.insert(1, tuple("-" * width for width in widths))
    for cells in table:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths)).rstrip())


def noise(path: Path, size: int) -> Path:
    """A file that no compressor makes smaller."""
    with path.open("wb") as file:
        for start in range(0, size, MB):
            file.write(os.urandom(min(MB, size - start)))
    return path


# A platform that is no bottleneck


class Platform(http.server.BaseHTTPRequestHandler):
    """The few endpoints that move data, as fast as Python can: the simulator's Flask would be what is measured."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    content: Path  # of the one output file
    answers: dict[str, Any]  # for the one job, which job_setup made and which has succeeded, by path
    rate: int  # bytes per second and connection, 0: as fast as it goes

    def do_GET(self) -> None:
        path = self.path.partition("/api/v2/")[2].partition("?")[0]
        if path in self.answers:
            self.send_json(self.answers[path])
        else:
            self.send_contents()

    def send_contents(self) -> None:
        """Send the file or the range of it that is asked for, no faster than the line is."""
        size = self.content.stat().st_size
        asked = re.findall(r"\d+", self.headers.get("Range", ""))
        first, last = map(int, asked or (0, size - 1))
        self.send_head(206 if asked else 200, last + 1 - first, f"bytes {first}-{last}/{size}")
        step, began = self.rate // 40 or size, time.monotonic()
        with self.content.open("rb") as file:
            for start in range(first, last + 1, step):
                self.connection.sendfile(file, start, min(step, last + 1 - start))
                if self.rate:
                    time.sleep(max(0, began + (start + step - first) / self.rate - time.monotonic()))

    def do_POST(self) -> None:
        """Take an upload, no faster than the line is, and forget it."""
        left = total = int(self.headers["Content-Length"])
        buffer, began = memoryview(bytearray(MB)), time.monotonic()
        while left:
            left -= self.rfile.readinto(buffer[: min(left, MB)])
            if self.rate:
                time.sleep(max(0, began + (total - left) / self.rate - time.monotonic()))
        self.send_json({"id": "dxGonb"})

    def send_json(self, thing: Any) -> None:
        body = json.dumps(thing).encode()
        self.send_head(200, len(body))
        self.wfile.write(body)

    def send_head(self, status: int, length: int, content_range: str = "") -> None:
        """Send what comes before a body."""
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_request(self, *_: Any) -> None:
        pass


def serve(started: Any, settings: dict[str, Any]) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Settled", (Platform,), settings))
    started.send(server.server_address[1])
    server.serve_forever()


@contextlib.contextmanager
def serving(content: Path, rate: int = 0) -> Iterator[str]:
    """A platform in a process of its own, whose job has left this file as its archive; the platform's address."""
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        sums = [{"hashFunction": "sha512", "fileHash": hashlib.sha512(view).hexdigest()}]
    answers = in_memory.Platform().answers
    answers[f"jobs/{in_memory.JOB_ID}/files/"]["results"][0].update(
        decryptedSize=content.stat().st_size, fileChecksums=sums)
    here, there = FORKS.Pipe()
    settings = {"content": content, "answers": answers, "rate": rate}
    process = FORKS.Process(target=serve, args=(there, settings), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.kill()
        process.join()


# 1. Archive


@functools.lru_cache
def sample() -> tuple[bytes, bytes]:
    """A few MB of a mesh deck, nodes and elements, and of a binary field; no compressor looks back farther."""
    dice = random.Random(1)
    nodes = "".join(f"{n:8d},{dice.random():20.12e},{dice.random():20.12e},{n / 9999:20.12e}\n" for n in range(30_000))
    elements = "".join(
        f"{n:8d}," + ",".join(f"{n // 4 + dice.randrange(500):9d}" for _ in range(4)) + "\n" for n in range(30_000)
    )
    field = array.array("d", (300 + 40 * math.sin(n / 500) + dice.gauss(0, 0.05) for n in range(300_000)))
    return f"*NODE\n{nodes}*ELEMENT, TYPE=C3D4\n{elements}".encode(), field.tobytes()


def make_inputs(folder: Path, inputs: tuple[int, int, int]) -> None:
    """Write a working folder as CAE has it: a text mesh deck, a binary field, small files, an empty one."""
    folder.mkdir()
    for name, content, size in zip(("mesh.inp", "field.bin"), sample(), inputs):
        with (folder / name).open("wb") as file:
            for start in range(0, size, len(content)):
                file.write(content[: size - start])
    for number in range(inputs[2]):
        (folder / f"material{number:03}.inp").write_bytes(sample()[0][number * SMALL : (number + 1) * SMALL])
    (folder / "empty.inp").touch()


def pack(inputs: Path, archive: Path) -> None:
    """What the library does."""
    rescale.create_tar_gz(inputs, str(archive))


def pack_with_pigz(inputs: Path, archive: Path) -> None:
    """What a shell does."""
    command = 'tar -cf - -C "$1" . | pigz -$2 > "$3" && sync "$3"'
    subprocess.run(["sh", "-c", command, "sh", inputs, str(rescale.LEVEL), archive], check=True)


def archive_rows(folder: Path, size: Size) -> Iterator[Row]:
    """Row 1: create_tar_gz, and a shell's pigz."""
    inputs, archive = folder / "inputs", folder / rescale.ARCHIVE
    make_inputs(inputs, size.inputs)
    total = sum(path.stat().st_size for path in inputs.iterdir()) / 1e6
    what = f"1 create_tar_gz, {total:.0f} MB, level {rescale.LEVEL}"
    tasks = [(pack, inputs, archive), (pack_with_pigz, inputs, archive.with_name("other.tar.gz"))]
    if shutil.which("pigz"):
        ours, pigz = in_turns(size.runs, *tasks)
        yield beside(what, ours, pigz, f"tar | pigz -{rescale.LEVEL}", 1.15)
    else:
        [ours] = in_turns(size.runs, tasks[0])
        yield Row(what, median(ours), "pigz is not here: NOT COMPARED, install it", "", "<= 1.15", False)
    yield memory(ours)
    subprocess.run(["tar", "-tzf", archive], check=True, stdout=subprocess.DEVNULL)


# 2. Upload


def upload_with_toolbelt(url: str, path: Path) -> None:
    """What the guide's code does: the encoder, in the reads that urllib3 makes by default."""
    with path.open("rb") as file:
        encoder = MultipartEncoder({"file": (path.name, file, "application/octet-stream")})
        headers = {"Authorization": TOKEN, "Content-Type": encoder.content_type}
        requests.post(f"{url}/api/v2/files/contents/", data=encoder, headers=headers).raise_for_status()


def upload(url: str, path: Path) -> None:
    """What the library does, for the first time."""
    path.with_name(f".{path.name}.uploaded").unlink(missing_ok=True)
    rescale.upload_local_files(url, TOKEN, path)


def upload_rows(folder: Path, large: Path, size: Size) -> Iterator[Row]:
    """Row 2: upload_local_files, an archive in volumes."""
    with serving(large) as url:
        ours, toolbelt = in_turns(size.runs, (upload, url, large), (upload_with_toolbelt, url, large))
    yield beside(f"2 upload_local_files, {size.large // MB} MB, fast line", ours, toolbelt, "toolbelt's default", 1 / 2)
    yield memory(ours)
    slow = noise(folder / "slow.tar.gz", size.upload)
    with serving(slow, LINE) as url:
        ours, toolbelt = in_turns(1, (upload, url, slow), (upload_with_toolbelt, url, slow))
    yield beside(f"    {size.upload / 1e6:.0f} MB, {LINE / 1e6:.0f} MB/s per connection", ours, toolbelt,
                 "toolbelt's default", 1 / 4)
    yield killed_row(folder, slow, size)


def killed_row(folder: Path, path: Path, size: Size) -> Row:
    """Row 2, continued: how much of an upload that was killed at 60 % is sent again."""
    from rescale_simulator import Simulator  # not above: every run would import its Flask

    with Simulator(folder / "uploads", token=TOKEN[6:], speed=0, upload_rate=LINE) as sim:
        first = FORKS.Process(target=measured, args=(upload, (sim.url, path)), daemon=True)
        first.start()
        deadline = time.monotonic() + 120
        while (before := arrived(sim)) < 0.6 * size.upload and time.monotonic() < deadline:
            time.sleep(0.02)
        first.kill()
        first.join()
        stored = sum(file.size for file in list(sim.files.values()))
        run(rescale.upload_local_files, sim.url, TOKEN, path)
        again = max(0, before - stored) / size.upload
        return Row("    killed at 60 %: sent again", f"{100 * again:.0f} %", "", "", "<= 33 %", again <= 1 / 3)


def arrived(sim: Any) -> int:
    """How many bytes of uploads a simulator has, unfinished ones too."""
    sizes = []
    for path in (sim.folder / "files").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been refused
            sizes.append(path.stat().st_size)
    return sum(sizes)


# 3. Download


def download(url: str, folder: Path, interval: float) -> None:
    """What the library does, the looks at the job included, with so long a pause between those at its files."""
    rescale.FILES_INTERVAL = interval
    with tempfile.TemporaryDirectory(dir=folder) as here:
        os.chdir(here)
        rescale.job_download(url, TOKEN, "job", in_memory.JOB_ID)
        os.chdir(folder)


def download_plainly(url: str, folder: Path) -> None:
    """The file as one stream whose SHA-512 is computed, too."""
    with tempfile.NamedTemporaryFile(dir=folder) as file, requests.Session() as session:
        digest = hashlib.sha512()
        with session.get(f"{url}/api/v2/files/archive/contents/", stream=True) as answer:
            for block in answer.iter_content(MB):
                file.write(block)
                digest.update(block)
        file.flush()
        os.fsync(file.fileno())


def download_rows(folder: Path, large: Path, size: Size) -> Iterator[Row]:
    """Row 3: job_download, where it takes the line's and the processor's time."""
    with serving(large) as url:
        ours, plain = in_turns(size.runs, (download, url, folder, size.interval), (download_plainly, url, folder))
    yield beside(f"3 job_download, {size.large // MB} MB, fast line", ours, plain, "one stream with SHA-512", 1.3)
    yield memory(ours)
    limited = noise(folder / "limited", size.limited)
    with serving(limited, LINE) as url:
        ours, plain = in_turns(size.runs, (download, url, folder, size.interval), (download_plainly, url, folder))
    what = f"    {size.limited / 1e6:.0f} MB, {LINE / 1e6:.0f} MB/s per connection"
    yield beside(what, ours, plain, "one stream with SHA-512", 1 / 4)


# 4. Waiting


def chain(url: str, token: str, folder: Path, step: float, interval: float) -> None:
    """Let main.py run three jobs that end at different times of a polling step."""
    import two_jobs  # not above: every run would import its Flask

    os.environ.update(RESCALE_API_URL=url, RESCALE_API_KEY=token, RESCALE_REHEARSAL=url)
    os.chdir(folder)
    batches = [(f"job{number}", f"sleep {phase * step}\n") for number, phase in enumerate(PHASES, 1)]
    two_jobs.copy_scripts(folder, batches=batches)
    rescale.STATUS_INTERVAL, rescale.FILES_INTERVAL = step, interval
    if two_jobs.run_here():
        raise RuntimeError("the chain has failed")


def chain_row(folder: Path, size: Size) -> Row:
    """Row 4: the longest time from the end of a job to what follows, but for the requests meanwhile."""
    from rescale_simulator import Simulator  # not above: every run would import its Flask

    folder.mkdir()
    took, waits = {}, []
    with Simulator(folder / "platform", speed=0) as sim:
        sim.on_request = lambda record, when: took.update({id(record): time.time() - record.time})
        run(chain, sim.url, sim.token, folder, size.step, size.interval)
        submits = [record.time for record in sim.requests if record.path.endswith("/submit/")]
        contents = [record.time for record in sim.requests if record.path.endswith("/contents/")]
        for job, then in zip(sim.jobs.values(), [*submits[1:], contents[-1]]):
            own = sum(took[id(record)] for record in sim.requests if job.ended < record.time < then)
            waits.append(then - job.ended - own)
        limit = size.step + 2 * size.interval  # the looks of job_monitor, and of what takes the files
        return Row("4 from job to job, at most", seconds(max(waits)), f"{len(sim.requests)} requests in all", "",
                   f"<= {limit:.0f} s", max(waits) <= limit)


def main() -> int:
    """Measure everything and print it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data, one run, no limits")
    size = QUICK if parser.parse_args().quick else FULL
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rescale-benchmark-") as name:
        folder = Path(name)
        large = noise(folder / "large.tar.gz", size.large)
        rows = [*archive_rows(folder, size), *upload_rows(folder, large, size), *download_rows(folder, large, size),
                chain_row(folder / "chain", size)]
    print_table(rows if size is FULL else [row._replace(limit="", kept=None) for row in rows])
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {size.runs} runs each, "
          f"{time.monotonic() - began:.0f} s in all")
    return int(size is FULL and any(row.kept is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
