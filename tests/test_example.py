"""The rod in tests/example: its two steps, and the analytic solution that only both of them together reach.

- step 2 continues step 1 to the bit, on another machine too; any other time is far from the analytic profile
- a step shows its progress, and in a picture where it started and what it reached
- a restart file that is missing, damaged, of another case or step, and a case that makes no sense are refused
- a step that finds the disk full leaves the earlier files whole

test_main.py and test_readme.py rehearse it with main.py.
"""

import csv
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conftest import TESTS, here

EXAMPLE = TESTS / "example"
INPUTS = ["rod.inp", "rod.py"]
# K. With 400 cells and 1 s the scheme decays mode k too slowly by (k pi dx / L)^2 / 12, which at 3600 s is below
# 5e-4 K in sum; the time step adds less than 1e-5 K. A broken chain is off by more than 10 K.
TOLERANCE = 0.002


def analytic_temperature(x: float, time: float) -> float:
    """The case of rod.inp, in m and s: every sine mode decays on its own."""
    modes = ((math.pi, 100.0), (2 * math.pi, 40.0), (3 * math.pi, 40.0))
    return 20.0 + sum(rise * math.sin(k * x) * math.exp(-1.2e-5 * k**2 * time) for k, rise in modes)


def profile_error(path: Path) -> float:
    """The largest deviation (K) of a temperature.csv from the analytic solution at 3600 s."""
    header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    assert header == ["x [m]", "T [degC]"]
    assert [float(x) for x, _ in rows] == [i / 400 for i in range(401)]
    errors = [abs(float(temperature) - analytic_temperature(float(x), 3600.0)) for x, temperature in rows]
    assert all(math.isfinite(error) for error in errors)
    return max(errors)


def solve(folder: Path, step: int, status: int = 0, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "rod.py", "rod.inp", "--step", str(step)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, **options)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    return done


def change_case(folder: Path, **values: str) -> None:
    case = folder / "rod.inp"
    for name, value in values.items():
        case.write_text(re.sub(rf"(?m)^{name} = .*$", f"{name} = {value}", case.read_text()))
        assert f"\n{name} = {value}\n" in case.read_text()


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """The folder after step 1, its copy on another machine after step 2, and the output of this one."""
    both = [tmp_path_factory.mktemp("rod") / name for name in ("step 1", "step 2")]
    shutil.copytree(EXAMPLE, both[0])
    solve(both[0], 1)
    shutil.copytree(*both)
    return [*both, solve(both[1], 2).stdout.splitlines()]


@pytest.fixture
def after_step_1(solved, tmp_path):
    return Path(shutil.copytree(solved[0], tmp_path / "after step 1"))


@pytest.mark.parametrize("step_ends", ["3600", "1800", "1800 3600 5400"], ids=["", "too short", "too long"])
def test_two_steps_reach_the_analytic_profile_to_the_bit_as_one_and_no_other_time_does(step_ends, solved, tmp_path):
    case = Path(shutil.copytree(EXAMPLE, tmp_path / "case"))
    change_case(case, step_ends=step_ends)
    for step, _ in enumerate(step_ends.split(), start=1):
        solve(case, step)
    table = case / "temperature.csv"
    if step_ends == "3600":
        assert table.read_bytes() == (solved[1] / "temperature.csv").read_bytes()
        assert profile_error(table) < TOLERANCE
    else:
        assert profile_error(table) > 1000 * TOLERANCE


def test_progress_can_be_read_and_a_picture_shows_where_a_step_started_and_what_it_reached(solved):
    assert here(solved[0]) == [*INPUTS, "rod.restart", "temperature.svg"]
    assert here(solved[1]) == [*INPUTS, "rod.restart", "temperature.csv", "temperature.svg"]
    lines = solved[2]
    assert lines[:2] == ["Step 2 of 2: 1800 s to 3600 s, from rod.restart", "t =  1920.0 s   T(mid) =  94.493 degC"]
    assert lines[-3:] == ["temperature.csv written", "temperature.svg written", "rod.restart written"]
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.parse(solved[1] / "temperature.svg").getroot()
    texts = {text.text for text in root.iter(f"{svg}text")}
    assert {"0 s, initial condition", "1800 s, start of step 2", "3600 s, end of step 2"} < texts
    heights = [[float(point.partition(",")[2]) for point in curve.get("points").split()]
               for curve in root.iter(f"{svg}polyline")]
    assert [len(curve) for curve in heights] == [401] * 3
    assert heights[0][100] < heights[1][100] < heights[2][100]  # pixels from the top: it cools


@pytest.mark.parametrize(("step", "change", "reason"), [
    (2, lambda content: b"", "truncated or damaged: run step 1 again"), (2, lambda content: content[:-1], "damaged"),
    (2, lambda content: b"\xff\0" + content, "damaged"),
    (2, {"diffusivity": "1.1e-5"}, "1.2e-05 there, 1.1e-05 here"), (3, {"step_ends": "1800 3600 5400"}, "another case"),
    (2, {}, "holds the end of step 2, step 2 needs that of step 1"), (3, {}, "there is no step 3: rod.inp has 2"),
    (1, {"cells": "four"}, "rod.inp: could not convert"), (1, {"amplitudes": "100 inf"}, "must be finite"),
    (1, {"length": "-1"}, "positive"), (1, {"step_ends": ""}, "there is no step 1: rod.inp has 0"),
    (2, None, "rod.restart, which is not here: run step 1 first"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_restart_file_that_is_not_right_and_a_case_without_sense_are_refused(step, change, reason, after_step_1):
    restart = after_step_1 / "rod.restart"
    if "step 2 needs" in reason:  # it is given its own result
        solve(after_step_1, 2)
        (after_step_1 / "temperature.csv").unlink()
    elif isinstance(change, dict):
        change_case(after_step_1, **change)
    else:
        restart.write_bytes(change(restart.read_bytes())) if change else restart.unlink()
    assert reason in solve(after_step_1, step, status=1).stderr
    assert not (after_step_1 / "temperature.csv").exists()


def test_a_full_disk_leaves_the_earlier_files_whole(after_step_1):
    resource = pytest.importorskip("resource")
    before = {path.name: path.read_bytes() for path in after_step_1.iterdir()}
    limit = (len(before["rod.restart"]) // 2,) * 2
    solve(after_step_1, 1, status=1, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert {path.name: path.read_bytes() for path in after_step_1.iterdir()} == before
