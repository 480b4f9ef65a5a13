"""The cantilever in tests/example_abaqus, with CalculiX in place of Abaqus; and the recipes for what success is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import TESTS
from two_jobs import copy_scripts, run

EXAMPLE = TESTS / "example_abaqus"
STAND_IN = EXAMPLE / "abaqus"
ABAQUS = {  # the README's lines
    "batches": [
        ("static", "abaqus job=static cpus=$RESCALE_CORES_PER_SLOT mp_mode=mpi interactive\n"),
        ("restart", "abaqus job=restart oldjob=static cpus=$RESCALE_CORES_PER_SLOT mp_mode=mpi interactive\n"),
    ],
    "code_name": "abaqus", "version_code": "2022-2241", "coretype_code": "starlite_max", "core_per_slot": 2,
    "license_info": {"LM_LICENSE_FILE": "27000@license-server"},
}
NO_CCX = "CalculiX is not installed (apt install calculix-ccx)"
needs_ccx = pytest.mark.skipif(not shutil.which("ccx"), reason=NO_CCX)


def displacements(text: str) -> dict[int, list[float]]:
    """The last table in a NAME.dat: the displacement of each node of the tip, in mm."""
    rows = [line.split() for line in text[text.rindex("displacements"):].splitlines()[1:] if line.strip()]
    return {int(node): [float(value) for value in values] for node, *values in rows}


def downloaded() -> dict[int, list[float]]:
    """The displacements in the result of the one chain that is done here, which has those of its first job, too."""
    [archive] = Path().glob("*@restart@*/rescale.tar.gz")
    with tarfile.open(archive) as tar:
        assert {"./static.dat", "./static.frd", "./static.rout"} < set(tar.getnames())
        return displacements(tar.extractfile("./restart.dat").read().decode())


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """The displacements when a user runs the solver alone, in one folder."""
    folder = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("by hand") / "beam")
    typed = "ccx -i static && cp static.rout restart.rin && ccx -i restart"
    subprocess.run(typed, shell=True, cwd=folder, check=True, timeout=60, stdout=subprocess.DEVNULL)
    return displacements((folder / "restart.dat").read_text())


@needs_ccx
def test_the_solver_alone_bends_the_cantilever_as_the_theory_of_beams_says(by_hand):
    length, width, modulus = 100.0, 10.0, 210000.0
    per_newton = length**3 / (3 * modulus * width**4 / 12)
    assert sorted(by_hand) == [41, 42, 43, 44]
    for _, sideways, up in by_hand.values():  # the mesh is coarse; step 1's load is still there
        assert sideways == pytest.approx(500 * per_newton, rel=0.05)
        assert up == pytest.approx(-1000 * per_newton, rel=0.05)


@needs_ccx
def test_a_rehearsal_gives_the_displacements_of_the_solver_alone(by_hand, tmp_path):
    folder = copy_scripts(tmp_path / "here", **ABAQUS, input_path=str(EXAMPLE))
    done = subprocess.run(
        [sys.executable, TESTS / "rescale_simulator.py", "--speed", "0", "--stand-in", f"abaqus={STAND_IN}", "main.py"],
        cwd=folder, capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert downloaded() == {node: pytest.approx(values, rel=1e-5) for node, values in by_hand.items()}


@needs_ccx
def test_a_mended_deck_is_all_that_a_repeat_needs(by_hand, sim, tmp_path, monkeypatch):
    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    (sim.stand_ins / "abaqus").symlink_to(STAND_IN)
    copy_scripts(tmp_path / "here", **ABAQUS)
    shutil.copytree(EXAMPLE, "inputs", dirs_exist_ok=True)
    deck = Path("inputs", "restart.inp")
    right = deck.read_text()
    deck.write_text(right.replace("STEP=1", "STEP=7"))

    status, _, err = run()
    assert status == 1
    assert re.search(r"\*ERROR in restartshort: requested step\n.* is not in the restart file\n.*Exited with code", err)

    deck.write_text(right)
    status, out, err = run("--repeat")
    assert status == 0, err
    assert "restart.inp" in out + err
    assert [sim.jobs[job_id].name.split("@")[1] for job_id in sim.starts] == ["static", "restart", "restart"]
    assert set(sim.starts.values()) == {1}
    assert downloaded() == {node: pytest.approx(values, rel=1e-5) for node, values in by_hand.items()}


# The stand-in


@pytest.fixture
def abaqus(tmp_path):
    """Call the stand-in with a CalculiX that tells what it is called with, and writes this to its log."""
    def call(*arguments, log=" STEP            1", status=0):
        program = tmp_path / "bin" / "ccx"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho $* on $OMP_NUM_THREADS\necho '{log}'\nexit {status}\n")
        program.chmod(0o755)
        variables = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run([STAND_IN, *arguments], env=variables, capture_output=True, text=True, timeout=60)

    return call


@pytest.mark.parametrize("arguments", [
    "job=beam cpus=4 interactive", "interactive cpus = 4 job = beam", "cpus= 4 mp_mode=mpi oldjob =static int job =beam"
])
def test_the_stand_in_takes_arguments_as_abaqus_does(abaqus, arguments):
    Path("static.rout").write_text("step 1")
    done = abaqus(*arguments.split())
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "-i beam on 4")
    assert Path("beam.rin").exists() == ("oldjob" in arguments)
    assert Path("beam.sta").read_text().splitlines()[-1].strip() == "THE ANALYSIS HAS COMPLETED SUCCESSFULLY"


@pytest.mark.parametrize(("arguments", "ccx"), [
    ("job=beam", {"status": 201}), ("job=beam", {"log": " *ERROR in readinput: cannot open file beam.inp"}),
    ("job=beam", {"log": " Job finished"}), ("job=beam oldjob=static", {}), ("job=beam input=plate", {}),
], ids=["failed", "an error and status 0", "no step", "no job before", "not for CalculiX"])
def test_the_stand_in_fails_when_nothing_was_computed(abaqus, arguments, ccx):
    done = abaqus(*arguments.split(), "interactive", **ccx)
    assert done.returncode not in (0, 127)  # that one says that a program is missing
    assert not Path("beam.sta").exists()
    last = (done.stdout + done.stderr).splitlines()[-1]
    assert ccx.get("status") or re.search(r"ERROR.*beam\.inp|static\.rout|input=plate", last)


# What success is: recipes for `batches`, each with its wrong neighbours

GREP = 'grep -q "COMPLETED SUCCESSFULLY" static.sta'
ABAQUS_RUNS = {  # what Abaqus does, in a folder with the static.sta of an earlier run
    "completed": "echo COMPLETED SUCCESSFULLY > static.sta",
    "no licence": "exit 1",
    "not completed": "echo HAS NOT BEEN COMPLETED > static.sta",
    "no word": "exit 0",
    "failed at its end": "echo COMPLETED SUCCESSFULLY > static.sta; exit 1",
}
SOLVER_RUNS = {"good": "echo converged", "bad": "echo diverged; exit 1"}
BEAM = (EXAMPLE / "static.inp").read_text()
PLASTIC = BEAM.replace("*STEP", "*STEP, NLGEOM, INC=5").replace("0.3", "0.3\n*PLASTIC\n100., 0.")
DIVERGES = PLASTIC.replace("-250.", "-1e6")
CCX_RUNS = {"computed": BEAM, "diverged": DIVERGES, "no deck": "", "no step": BEAM.replace("*END STEP", "")}  # beam.inp
BY_CCX = f"{shlex.quote(str(STAND_IN))} job=beam interactive"


@pytest.mark.parametrize(("command", "runs", "successful"), [
    (f"rm -f static.sta; abaqus job=static interactive && {GREP}", ABAQUS_RUNS, {"completed"}),
    (f"abaqus job=static interactive && {GREP}", ABAQUS_RUNS, {"completed", "no word"}),
    (f"rm -f static.sta; abaqus job=static interactive\n{GREP}", ABAQUS_RUNS, {"completed", "failed at its end"}),
    ("abaqus job=static interactive", ABAQUS_RUNS, {"completed", "not completed", "no word"}),
    ("solver &\nwait $!", SOLVER_RUNS, {"good"}),
    ("solver &\nwait", SOLVER_RUNS, {"good", "bad"}),
    ("set -o pipefail\nsolver | tee solver.log", SOLVER_RUNS, {"good"}),
    ("solver | tee solver.log", SOLVER_RUNS, {"good", "bad"}),
    ("rm -f beam.frd; ccx -i beam && grep -q 100CL beam.frd", CCX_RUNS, {"computed"}),
    ("rm -f beam.frd; ccx -i beam\ngrep -q 100CL beam.frd", CCX_RUNS, {"computed", "diverged"}),
    ("rm -f beam.frd; ccx -i beam && test -s beam.frd", CCX_RUNS, {"computed", "no step"}),  # 6 bytes, of CalculiX 2.20
    ("ccx -i beam", CCX_RUNS, {"computed", "no deck", "no step"}),
    (f"rm -f beam.sta; abaqus job=beam interactive && {GREP.replace('static', 'beam')}", CCX_RUNS, {"computed"}),
])
def test_a_recipe_succeeds_only_where_the_solver_did(sim, access, set_up, command, runs, successful):
    if runs is CCX_RUNS and not shutil.which("ccx"):
        pytest.skip(NO_CCX)
    for name in ("abaqus", "solver"):
        (sim.stand_ins / name).write_text('#!/bin/sh\neval "$SOLVER"\n')
        (sim.stand_ins / name).chmod(0o755)
    jobs = {}
    for case, way in runs.items():  # all of them at once
        Path(case).mkdir()
        Path(case, "static.sta").write_text("THE ANALYSIS HAS COMPLETED SUCCESSFULLY")
        if runs is CCX_RUNS and way:
            Path(case, "beam.inp").write_text(way)
        inputs = rescale.upload_local_files(*access, rescale.create_tar_gz(case, f"{case}.tar.gz"))
        solver = {"SOLVER": BY_CCX if runs is CCX_RUNS else way}
        jobs[case] = set_up(job_name=case, command=f"{command}\n", inputfiles_list=inputs, license_info=solver)
        rescale.job_submit(*access, case, jobs[case])
    assert {case for case in jobs if succeeds(access, jobs[case])} == successful


def succeeds(access, job_id):
    try:
        rescale.job_monitor(*access, job_id)
    except rescale.JobFailed:
        return False
    return True
