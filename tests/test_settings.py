"""job_settings and check_settings: what goes into main.py, read from a job that ran and checked before it costs."""

from __future__ import annotations

import runpy

import flask
import pytest
import requests

import rescale_rest_api as rescale
import rescale_simulator
from rescale_simulator import Refused, Simulator

GOOD = {
    "code_name": "abaqus", "version_code": "2022-2241", "license_info": {"LM_LICENSE_FILE": "27000@host"},
    "coretype_code": "starlite_max", "core_per_slot": 4, "slot": 1, "walltime": 8, "projectid": "xDdRk",
}


@pytest.fixture
def job(access):
    """A job as job_setup makes it."""
    return rescale.job_setup(
        *access, "read@me", "abaqus job=a interactive\n", *GOOD.values(), [], license_features={"abaqus": 8}
    )


def post(sim, body):
    reply = requests.post(f"{sim.url}/api/v2/jobs/", json=body, headers={"Authorization": f"Token {sim.token}"})
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]


def test_the_settings_of_a_job_are_returned_and_its_command_comes_without_the_packing(access, job):
    settings = rescale.job_settings(*access, job)
    assert settings == {**GOOD, "license_features": {"abaqus": 8}, "command": "abaqus job=a interactive\n"}


def test_the_printed_settings_are_python_that_gives_the_same(access, job, capsys, tmp_path):
    capsys.readouterr()
    settings = rescale.job_settings(*access, job)
    block = tmp_path / "block.py"
    block.write_text(capsys.readouterr().out, encoding="utf-8")
    pasted = runpy.run_path(str(block))
    assert {name: pasted[name] for name in settings} == settings


def test_a_job_of_the_web_page_is_read_with_its_tiles_and_without_a_walltime(access, sim, capsys):
    tile = {
        "analysis": {"code": "user_included", "version": "0"}, "command": "sh run.sh", "envVars": None,
        "hardware": {"coreType": "emerald", "coresPerSlot": 2, "slots": 1, "walltime": None}, "inputFiles": [],
    }
    other = {**tile, "analysis": {"code": "openfoam", "version": None}}
    versions = requests.get(
        f"{sim.url}/api/v2/analyses/?page_size=1000", headers={"Authorization": access[1]}
    ).json()["results"]
    other["analysis"] = next(
        {"code": item["code"], "version": item["versions"][0]["versionCode"]}
        for item in versions if item["code"].startswith("openfoam")
    )
    settings = rescale.job_settings(*access, post(sim, {"name": "web", "jobanalyses": [tile, other]}))
    assert settings["command"] == "sh run.sh"
    assert settings["license_info"] == {}
    assert settings["projectid"] is None
    assert settings["walltime"] == rescale.DEFAULT_WALLTIME
    out = capsys.readouterr().out
    assert "had no walltime" in out
    assert other["analysis"]["code"] in out


def test_good_settings_are_told_with_the_account_and_nothing_is_raised(access, sim, capsys, tmp_path):
    folder = tmp_path / "case"
    folder.mkdir()
    for number in range(7):
        (folder / f"f{number}").write_bytes(bytes(number << 20))
    rescale.check_settings(*access, **GOOD, input_path=folder)
    out = capsys.readouterr().out
    assert "rehearsal@example.com" in out
    assert f"...{sim.token[-4:]}" in out
    assert sim.token not in out
    assert "abaqus 2022-2241 on 1 x 4 cores of starlite_max, at most 8 h, project xDdRk" in out
    assert "7 files to pack and upload, 21.000 MB; the largest: f6 6.000 MB, f5 5.000 MB, f4 " in out
    assert "f1" not in out
    assert len(sim.requests) <= 6  # although there are 700 tiles


@pytest.mark.parametrize(("name", "value", "hints"), [
    ("code_name", "abacus", ["code_name = 'abacus'", "did you mean abaqus"]),
    ("version_code", "2022-2242", ["'2022-2242' is not a version of abaqus", "2022-2241", "newest"]),
    ("coretype_code", "starlite_mx", ["coretype_code = 'starlite_mx'", "did you mean starlite_max"]),
    ("coretype_code", "marble", ["no longer offered"]),
    ("core_per_slot", 5, ["core_per_slot = 5", "nearest: 4 or 8"]),
    ("core_per_slot", 100, ["core_per_slot = 100", "nearest: 64 or 128"]),
    ("walltime", 1000, ["walltime = 1000", "48 hours"]),
    ("projectid", "nowhere", ["projectid = 'nowhere'", "xDdRk"]),
])
def test_a_wrong_setting_is_answered_with_the_nearest_right_ones(access, name, value, hints):
    with pytest.raises(rescale.RescaleError) as caught:
        rescale.check_settings(*access, **{**GOOD, name: value})
    assert [hint for hint in hints if hint not in str(caught.value)] == []
    assert len(str(caught.value).splitlines()) == 2  # only what is wrong


def test_all_wrong_settings_are_told_at_once(access):
    wrong = {"code_name": "abacus", "coretype_code": "starlite_mx", "walltime": 1000, "projectid": "nowhere"}
    with pytest.raises(rescale.RescaleError) as caught:
        rescale.check_settings(*access, **{**GOOD, **wrong})
    assert [name for name in wrong if f"{name} = " not in str(caught.value)] == []


@pytest.mark.parametrize("cores", [64, 128, 192])
def test_whole_nodes_of_a_core_type_are_allowed(access, cores):
    rescale.check_settings(*access, **{**GOOD, "core_per_slot": cores})


@pytest.mark.parametrize("path", ["analyses", "coretypes", "projects"])
def test_a_catalogue_that_the_account_may_not_see_is_skipped_with_a_notice(access, monkeypatch, capsys, path):
    whole = Simulator._page

    def page(self, items):
        if path in flask.request.path:
            raise Refused(403, {"detail": "You do not have permission to perform this action."})
        return whole(self, items)

    monkeypatch.setattr(Simulator, "_page", page)
    wrong = {"analyses": "code_name", "coretypes": "coretype_code", "projects": "projectid"}[path]
    rescale.check_settings(*access, **{**GOOD, wrong: "unknown"})
    assert f"not checked, the account may not see it: {path}" in capsys.readouterr().out.replace("users/me/", "")


def test_an_invalid_token_is_told_before_anything_is_packed(sim, fast):
    with pytest.raises(rescale.RescaleError, match=r"401 .*belongs to one region"):
        rescale.check_settings(sim.url, "Token 0123456789abcdef", **GOOD)
    assert len(sim.requests) == 1


def test_an_input_folder_that_does_not_exist_is_told_before_anything_is_uploaded(access, sim):
    with pytest.raises(rescale.RescaleError, match="nowhere"):
        rescale.check_settings(*access, **GOOD, input_path="nowhere")
    assert {record.method for record in sim.requests} <= {"GET"}


def test_a_rehearsal_takes_settings_that_it_does_not_know_and_says_so(sim, fast, monkeypatch, capsys):
    monkeypatch.setenv("RESCALE_REHEARSAL", sim.url)
    sim.any_settings = True
    mine = {**GOOD, "version_code": "2099", "coretype_code": "sapphire", "walltime": 500, "projectid": "mine"}
    rescale.check_settings(sim.url, sim.token, **mine)
    assert capsys.readouterr().out.count("unknown to this rehearsal") == 4
    job_id = rescale.job_setup(sim.url, sim.token, "name", "true", *mine.values(), [])
    assert sim.jobs[job_id].data["jobanalyses"][0]["hardware"]["coreType"] == "sapphire"


def test_values_of_the_wrong_kind_and_a_wrong_folder_are_told_together_with_unknown_ones(access):
    wrong = {
        "code_name": "abacus", "core_per_slot": "four", "walltime": "1 h", "slot": 0, "license_info": "27000@host",
        "license_features": ["abaqus"], "input_path": "nowhere", "projectid": "nowhere",
    }
    with pytest.raises(rescale.RescaleError) as caught:
        rescale.check_settings(*access, **{**GOOD, **wrong})
    assert [name for name in wrong if f"{name} " not in str(caught.value)] == []


def test_a_rehearsal_takes_unknown_values_but_none_of_the_wrong_kind(access, sim, monkeypatch, capsys):
    monkeypatch.setenv("RESCALE_REHEARSAL", sim.url)
    rescale.check_settings(*access, **{**GOOD, "code_name": "abacus"})
    assert "unknown to this rehearsal" in capsys.readouterr().out
    with pytest.raises(rescale.RescaleError, match="walltime = '1 h'"):
        rescale.check_settings(*access, **{**GOOD, "walltime": "1 h"})


def test_good_values_that_look_odd_are_taken(access, monkeypatch, capsys):
    """A version without a code, a project whose id is a number, an account without a limit of hours."""
    monkeypatch.setitem(rescale_simulator.ANALYSES, "abaqus", ("Abaqus", "Dassault", [("2022", None)]))
    monkeypatch.setitem(rescale_simulator.PROJECTS, 4711, "Numbers")
    monkeypatch.setattr(rescale_simulator, "MAX_JOB_HOURS", 0)
    rescale.check_settings(*access, **{**GOOD, "projectid": 4711, "walltime": 1000})
    assert "project 4711" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "value"), [
    ("code_name", None), ("coretype_code", None), ("core_per_slot", 10**400), ("walltime", 10**400), ("slot", True),
    ("core_per_slot", float("inf")), ("walltime", None),
], ids=lambda value: value if isinstance(value, str) else type(value).__name__)
def test_a_value_that_cannot_be_one_is_told_by_its_name_and_not_in_full(access, name, value):
    with pytest.raises(rescale.RescaleError, match=f"{name} = ") as caught:
        rescale.check_settings(*access, **{**GOOD, name: value})
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("prices", [True, False], ids=["with prices", "without"])
@pytest.mark.parametrize("jobs", [1, 3], ids=["a job", "a chain"])
def test_what_a_job_and_a_chain_cost_at_most_is_told_and_nothing_invented(access, sim, capsys, prices, jobs):
    sim.prices = prices
    rescale.check_settings(*access, **{**GOOD, "slot": 2}, jobs=jobs)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "core-hours" in line]
    assert "64 core-hours" in line  # 4 cores x 2 slots x 8 hours
    assert ("5.76" in line) == prices  # at 0.09
    assert ("192 core-hours" in line) == (jobs == 3)
    assert ("17.28" in line) == (prices and jobs == 3)
