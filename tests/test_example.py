"""The rod in tests/example: its two steps, and the analytic solution that only both of them together reach.

- step 2 continues step 1 to the bit, on another machine too; any other time is far from the analytic profile
- a step shows its progress, and in a picture where it started and what it reached
- without the restart file of the step before a step fails

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


def solve(folder: Path, step: int, status: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, "rod.py", "rod.inp", "--step", str(step)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
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
    assert here(solved[1]) == [*INPUTS, "rod.restart", "temperature.csv", "temperature.svg"]
    lines = solved[2]
    assert lines[:2] == ["Step 2 of 2: 1800 s to 3600 s, from rod.restart", "t =  1920.0 s   T(mid) =  94.493 degC"]
    assert lines[-3:] == ["temperature.csv written", "temperature.svg written", "rod.restart written"]
    picture = ElementTree.parse(solved[1] / "temperature.svg").getroot()
    assert [len(curve.get("points").split()) for curve in picture.iter() if curve.get("points")] == [401] * 3


def test_step_2_fails_where_step_1_has_left_nothing(tmp_path):
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "case"))
    assert "rod.restart" in solve(folder, 2, status=1).stderr
