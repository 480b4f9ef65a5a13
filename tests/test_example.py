"""The rod in tests/example: its two steps, and the analytic solution that only both of them together reach."""

import csv
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

EXAMPLE = Path(__file__).parent / "example"

# K. With 400 cells and 1 s the scheme decays mode k too slowly by (k pi dx / L)^2 / 12, which at 3600 s is below
# 5e-4 K in sum; the time step adds less than 1e-5 K. A broken chain is off by more than 10 K.
TOLERANCE = 0.002


def analytic_temperature(x: float, time: float) -> float:
    """The case of rod.inp, x in m, time in s: every sine mode decays on its own."""
    length, diffusivity, end_temperature = 1.0, 1.2e-5, 20.0
    temperature = end_temperature
    for mode, amplitude in ((1, 100.0), (2, 40.0), (3, 40.0)):
        wave_number = mode * math.pi / length
        temperature += amplitude * math.sin(wave_number * x) * math.exp(-diffusivity * wave_number**2 * time)
    return temperature


def profile_error(path: Path) -> float:
    """Return the largest deviation (K) of a `temperature.csv` from the analytic solution at 3600 s.

    Raises `ValueError` when the file is not a whole profile.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    if header != ["x [m]", "T [degC]"]:
        raise ValueError(f"{path}: unexpected header {header}")
    profile = [(float(x), float(temperature)) for x, temperature in rows]
    if [x for x, _ in profile] != [i / 400 for i in range(401)]:
        raise ValueError(f"{path}: the points are not the 401 of the grid")
    if not all(math.isfinite(temperature) for _, temperature in profile):
        raise ValueError(f"{path}: a temperature is not a number")
    return max(abs(temperature - analytic_temperature(x, 3600.0)) for x, temperature in profile)


def solve(folder: Path, step: int, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "rod.py", "rod.inp", "--step", str(step)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, **options)


def change_case(folder: Path, **values: str) -> None:
    case = folder / "rod.inp"
    text = case.read_text(encoding="utf-8")
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
        assert count == 1
    case.write_text(text, encoding="utf-8")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_refused(result: subprocess.CompletedProcess, reason: str) -> None:
    assert result.returncode == 1
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def new_case(folder: Path) -> Path:
    folder.mkdir()
    for name in ("rod.py", "rod.inp"):
        shutil.copy(EXAMPLE / name, folder)
    return folder


@pytest.fixture
def case(tmp_path):
    return new_case(tmp_path / "case")


@pytest.fixture(scope="module")
def step_1(tmp_path_factory):
    folder = new_case(tmp_path_factory.mktemp("rod") / "step 1")
    solve(folder, 1, check=True)
    return folder


@pytest.fixture
def after_step_1(step_1, tmp_path):
    return Path(shutil.copytree(step_1, tmp_path / "after step 1"))


def test_two_steps_reach_the_analytic_profile(case, tmp_path):
    first = solve(case, 1)
    assert first.returncode == 0, first.stderr
    assert names(case) == {"rod.py", "rod.inp", "rod.restart", "temperature.svg"}

    other_machine = Path(shutil.copytree(case, tmp_path / "other machine"))
    second = solve(other_machine, 2)
    assert second.returncode == 0, second.stderr
    assert names(other_machine) == {"rod.py", "rod.inp", "rod.restart", "temperature.csv", "temperature.svg"}
    assert profile_error(other_machine / "temperature.csv") < TOLERANCE


def test_progress_can_be_read(after_step_1):
    lines = solve(after_step_1, 2).stdout.splitlines()
    assert 15 <= len(lines) <= 25
    assert lines[0] == "Step 2 of 2: 1800 s to 3600 s, from rod.restart"
    assert lines[1] == "t =  1920.0 s   T(mid) =  94.493 degC"
    assert lines[-3:] == ["temperature.csv written", "temperature.svg written", "rod.restart written"]


def drawn(folder: Path) -> tuple[set[str], list[list[tuple[float, float]]]]:
    """The texts and the curves (points in pixels) of a picture."""
    root = ElementTree.parse(folder / "temperature.svg").getroot()
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    curves = [
        [tuple(map(float, point.split(","))) for point in curve.get("points").split()]
        for curve in root.iter("{http://www.w3.org/2000/svg}polyline")
    ]
    return texts, curves


def test_the_picture_shows_where_a_step_started_and_what_it_reached(after_step_1):
    texts, before = drawn(after_step_1)
    assert {"x [m]", "T [degC]", "0", "1", "200", "1800 s, end of step 1"} < texts
    solve(after_step_1, 2, check=True)
    texts, (initial, step_1, step_2, steady) = drawn(after_step_1)
    assert {"0 s, initial condition", "1800 s, end of step 1", "3600 s, end of step 2"} < texts
    assert before == [initial, step_1, steady]
    assert all(len(curve) == 401 for curve in (initial, step_1, step_2, steady))
    # From the picture's scale, 20 degC at the ends and the initial profile known, the last profile can be read off.
    (_, base), (_, high) = steady[200], initial[100]
    kelvin = (base - high) / (analytic_temperature(0.25, 0) - 20)
    for curve, time in ((step_1, 1800), (step_2, 3600)):
        assert (base - curve[100][1]) / kelvin == pytest.approx(analytic_temperature(0.25, time) - 20, abs=0.2)
        assert [round(x) for x, _ in (curve[0], curve[-1])] == [80, 770]


@pytest.mark.parametrize("amplitudes", ["0", "0.001", "-300 5", "1e6"])
def test_a_picture_has_numbers_on_its_axes_whatever_the_temperatures(case, amplitudes):
    change_case(case, amplitudes=amplitudes, length="0.037", cells="10")
    assert solve(case, 1).returncode == 0
    texts, curves = drawn(case)
    numbers = [float(text) for text in texts if re.fullmatch(r"-?[\d.]+(e[+-]\d+)?", text)]
    assert 6 <= len(numbers) <= 16
    assert all(80 <= x <= 770 and 50 <= y <= 430 for curve in curves for x, y in curve)


def test_continuing_changes_not_a_single_bit(after_step_1, tmp_path):
    solve(after_step_1, 2, check=True)
    in_one_go = new_case(tmp_path / "in one go")
    change_case(in_one_go, step_ends="3600")
    solve(in_one_go, 1, check=True)
    assert (in_one_go / "temperature.csv").read_bytes() == (after_step_1 / "temperature.csv").read_bytes()


@pytest.mark.parametrize("step_ends", ["1800", "1800 3600 5400"], ids=["a step too few", "one too many"])
def test_any_other_time_span_is_far_from_the_profile(case, step_ends):
    change_case(case, step_ends=step_ends)
    for step, _ in enumerate(step_ends.split(), start=1):
        solve(case, step, check=True)
    assert profile_error(case / "temperature.csv") > 1000 * TOLERANCE


def test_step_2_without_the_data_of_step_1_fails(case):
    assert_refused(solve(case, 2), "step 2 continues from rod.restart, which is not here: run step 1 first")
    assert names(case) == {"rod.py", "rod.inp"}


def test_step_2_repeated_on_its_own_result_is_refused(after_step_1):
    solve(after_step_1, 2, check=True)
    assert_refused(solve(after_step_1, 2), "rod.restart holds the end of step 2, step 2 needs that of step 1")
    assert profile_error(after_step_1 / "temperature.csv") < TOLERANCE


@pytest.mark.parametrize("damage", [
    lambda content: b"",
    lambda content: content[: len(content) // 2],
    lambda content: content[:-1],
    lambda content: content.replace(b"1", b"7", 1),
    lambda content: content[:-9] + b"8" + content[-8:],
    lambda content: b"\xff\x00" + content,
], ids=["empty", "half", "last byte lost", "checksum changed", "temperature changed", "no text"])
def test_a_damaged_restart_file_is_refused(after_step_1, damage):
    restart = after_step_1 / "rod.restart"
    content = restart.read_bytes()
    damaged = damage(content)
    assert damaged != content
    restart.write_bytes(damaged)
    assert_refused(solve(after_step_1, 2), "rod.restart is truncated or damaged: run step 1 again")
    assert not (after_step_1 / "temperature.csv").exists()


def test_a_restart_file_of_another_case_is_refused(after_step_1):
    change_case(after_step_1, diffusivity="1.1e-5")
    assert_refused(solve(after_step_1, 2), "rod.restart is of another case: diffusivity is 1.2e-05 there, 1.1e-05 here")
    assert not (after_step_1 / "temperature.csv").exists()


def test_a_killed_step_has_shown_its_progress_and_leaves_no_restart_file(case):
    change_case(case, cells="40", time_step="0.01")  # some seconds long
    command = [sys.executable, "rod.py", "rod.inp", "--step", "1"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, cwd=case, env=buffered, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        assert process.stdout.readline().startswith("t =   120.0 s")
        process.kill()
    assert names(case) == {"rod.py", "rod.inp"}


def test_a_full_disk_leaves_the_earlier_files_whole(after_step_1):
    resource = pytest.importorskip("resource")
    before = (after_step_1 / "rod.restart").read_bytes()
    limit = (len(before) // 2, len(before) // 2)
    result = solve(after_step_1, 1, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert result.returncode == 1
    assert "rod.py: [Errno" in result.stderr
    assert (after_step_1 / "rod.restart").read_bytes() == before
    assert names(after_step_1) == {"rod.py", "rod.inp", "rod.restart", "temperature.svg"}


@pytest.mark.parametrize(("values", "reason"), [
    ({"cells": "4e2"}, "rod.inp: invalid literal"),
    ({"cells": "1"}, "cells at least 2"),
    ({"diffusivity": "nan"}, "must be positive"),
    ({"amplitudes": "100 inf"}, "temperatures must be finite"),
    ({"step_ends": ""}, "there must be a step"),
    ({"step_ends": "1800 1800"}, "1800 s to 1800 s is not a whole number of time steps"),
    ({"time_step": "7"}, "0 s to 1800 s is not a whole number of time steps"),
], ids=["text", "one cell", "nan", "inf", "no step", "empty step", "time step"])
def test_a_case_that_makes_no_sense_is_refused(case, values, reason):
    change_case(case, **values)
    assert_refused(solve(case, 1), reason)


def test_a_case_or_a_step_that_is_not_there_is_named(case):
    assert_refused(solve(case, 3), "there is no step 3: rod.inp has 2")
    (case / "rod.inp").write_text("[rod]\nlength = 1.0\n")
    assert_refused(solve(case, 1), "rod.inp: No option 'diffusivity'")
    (case / "rod.inp").unlink()
    assert_refused(solve(case, 1), "'rod.inp'")


@pytest.mark.parametrize("damage", [
    lambda lines: lines[:-1], lambda lines: lines[1:], lambda lines: [*lines[:-1], "1.000000,nan"],
], ids=["last row lost", "header lost", "no number"])
def test_a_profile_that_is_not_whole_is_not_compared(after_step_1, damage):
    solve(after_step_1, 2, check=True)
    profile = after_step_1 / "temperature.csv"
    profile.write_text("\n".join(damage(profile.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match="temperature.csv"):
        profile_error(profile)
