"""job_settings and check_settings: what goes into main.py, read from a job that ran and checked before it costs.

- job_settings gives and prints what makes the same job again; other tiles and a missing walltime are told
- check_settings tells the account, what there is to pack, and the most that a job and a chain can cost
- what is wrong is told before anything is sent, all at once and each with the nearest right ones
- a catalogue that may not be seen is skipped with a notice; a rehearsal takes what it does not know
"""

import re
import runpy
from pathlib import Path

import flask
import pytest
import requests

import rescale_rest_api as rescale
import rescale_simulator
from rescale_simulator import Fault, Refused, Simulator

GOOD = {
    "code_name": "abaqus", "version_code": "2022-2241", "license_info": {"LM_LICENSE_FILE": "27000@host"},
    "coretype_code": "starlite_max", "core_per_slot": 4, "slot": 1, "walltime": 8, "projectid": "xDdRk",
}

def pasted(text):
    """The values in printed settings, as Python reads them."""
    Path("block.py").write_text(text, encoding="utf-8")
    return {name: value for name, value in runpy.run_path("block.py").items() if not name.startswith("__")}


@pytest.mark.parametrize("command", [
    "abaqus job=a interactive\n", "cat > x <<'EOF'\n$HOME `date` \"a\\\\b\"\nEOF\n", "echo 압력; exit 3\n",
], ids=["of the guide", "with a here-document", "of any letters"])
def test_the_settings_of_a_job_come_without_the_packing_and_can_be_pasted(command, access, capsys):
    mine = {**GOOD, "license_features": {"abaqus": 8}}
    job_id = rescale.job_setup(*access, "read@me", command, **mine, inputfiles_list=[])
    capsys.readouterr()
    settings = rescale.job_settings(*access, job_id)
    assert settings == {**mine, "command": command}
    assert pasted(capsys.readouterr().out) == settings


def test_a_job_of_the_web_page_is_read_with_its_tiles_and_without_a_walltime(access, sim, capsys):
    tile = {"command": "sh run.sh", "envVars": None, "hardware": {"coreType": "emerald", "coresPerSlot": 2}}
    body = {"name": "web", "jobanalyses": [{**tile, "analysis": {"code": "user_included", "version": "0"}},
                                           {**tile, "analysis": {"code": "openfoam", "version": "v2406"}}]}
    job = requests.post(f"{sim.url}/api/v2/jobs/", json=body, headers={"Authorization": access[1]}).json()
    settings = rescale.job_settings(*access, job["id"])
    assert settings == {
        "code_name": "user_included", "version_code": "0", "license_info": {}, "license_features": {},
        "coretype_code": "emerald", "core_per_slot": 2, "slot": 1, "walltime": rescale.DEFAULT_WALLTIME,
        "projectid": None, "command": "sh run.sh",
    }
    said = capsys.readouterr().out
    assert (pasted(said), "openfoam" in said) == (settings, True)


def test_good_settings_are_told_with_the_account_and_what_there_is_to_pack(access, sim, capsys):
    for number in range(7):
        Path(f"f{number}").write_bytes(bytes(number << 20))
    rescale.check_settings(*access, **GOOD, input_path=".")
    said = capsys.readouterr().out
    assert "rehearsal@example.com" in said
    assert "7 files to pack and upload, 21.000 MB: f0, f1, f2, f3, f4, f5, f6" in said
    assert len(sim.requests) <= 6  # although there are 700 tiles


@pytest.mark.parametrize(("prices", "jobs", "facts"), [  # of 4 cores x 2 slots x 8 h
    (True, 1, ["64 core-hours", "5.76", "0.09"]), (True, 3, ["192", "17.28"]), (False, 3, ["192", "no price"]),
    (-0.09, 1, ["64 core-hours; ", "no price"]), (float("inf"), 1, ["64 core-hours; ", "no price"]),
], ids=["a job", "a chain", "no prices", "negative", "endless"])
def test_what_is_the_most_that_it_costs_is_told_and_nothing_invented(
    prices, jobs, facts, access, sim, monkeypatch, capsys
):
    sim.prices = bool(prices)
    if isinstance(prices, float):
        monkeypatch.setattr(rescale_simulator, "CORE_TYPES", [("starlite_max", prices, [4, 64], {})])
    rescale.check_settings(*access, **{**GOOD, "slot": 2}, jobs=jobs)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "core-hours" in line]
    assert [fact for fact in facts if fact not in line] == []


@pytest.mark.parametrize("good", [{"core_per_slot": 64}, {"core_per_slot": 192}, {"projectid": 4711},
                                  {"projectid": None}, {"version_code": ""}], ids=str)
def test_good_values_that_look_odd_are_taken(good, access, monkeypatch):
    monkeypatch.setitem(rescale_simulator.PROJECTS, 4711, "Numbers")
    rescale.check_settings(*access, **{**GOOD, **good})


WRONG = [  # and what must stand in the error
    ({"code_name": "abacus"}, ["'abacus'", "abaqus"]), ({"version_code": "2022-2242"}, ["'2022-2242'", "2022-2241"]),
    ({"coretype_code": "starlite_mx"}, ["starlite_max"]), ({"coretype_code": "marble"}, ["'marble'", "no longer"]),
    ({"core_per_slot": 6}, ["= 6", " 4, 8,"]), ({"core_per_slot": 100}, ["= 100", "multiples of 64"]),
    ({"projectid": "nowhere"}, ["'nowhere'", "xDdRk"]),
    ({"code_name": "abacus", "core_per_slot": 6, "projectid": "nowhere"}, []),  # at once
]
NEVER = [({name: value}, []) for name, value in [
    ("code_name", None), ("code_name", ""), ("coretype_code", None), ("core_per_slot", "four"), ("walltime", "1 h"),
    ("walltime", None), ("slot", True), ("slot", 0), ("core_per_slot", float("inf")), ("walltime", 10**400),
    ("license_info", "27000@host"), ("license_features", ["abaqus"]), ("input_path", "nowhere"),
]]


@pytest.mark.parametrize(("wrong", "hints"), [*WRONG, *NEVER], ids=lambda value: str(value)[:30])
def test_wrong_values_are_told_at_once_by_their_names_with_the_nearest_right_ones(wrong, hints, access, sim):
    with pytest.raises(rescale.RescaleError) as caught:
        rescale.check_settings(*access, **{**GOOD, **wrong})
    said = str(caught.value)
    assert [text for text in [*wrong, *hints] if text not in said] == []
    assert {name for name in GOOD if re.search(rf"\b{name} = ", said)} <= set(wrong)
    assert len(said) < 1000
    assert {record.method for record in sim.requests} <= {"GET"}


@pytest.mark.parametrize(("path", "wrong"), [
    ("analyses", "code_name"), ("coretypes", "coretype_code"), ("users/me/projects", "projectid"),
])
def test_a_catalogue_that_may_not_be_seen_is_skipped_with_a_notice(path, wrong, sim, access, monkeypatch, capsys):
    whole = Simulator._page

    def page(self, items):
        if path in flask.request.path:
            raise Refused(403, {"detail": "You do not have permission to perform this action."})
        return whole(self, items)

    monkeypatch.setattr(Simulator, "_page", page)
    rescale.check_settings(*access, **{**GOOD, wrong: "unknown"})
    assert re.findall(r"not checked.*?: (\S+)/", capsys.readouterr().out) == [path]
    sim.faults.append(Fault("503", path=path, times=999))  # an outage is another matter
    with pytest.raises(rescale.RescaleError, match="503"):
        rescale.check_settings(*access, **{**GOOD, wrong: "unknown"})


def test_a_rehearsal_takes_values_that_it_does_not_know_but_none_of_the_wrong_kind(sim, access, monkeypatch, capsys):
    monkeypatch.setenv("RESCALE_REHEARSAL", sim.url)
    sim.any_settings = True
    mine = {**GOOD, "version_code": "2099", "coretype_code": "sapphire", "projectid": "mine"}
    rescale.check_settings(*access, **mine)
    with pytest.raises(rescale.RescaleError, match="walltime = '1 h'"):
        rescale.check_settings(*access, **{**mine, "walltime": "1 h"})
