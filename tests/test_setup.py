"""4. job_setup: the job that reaches the platform, and the values that never do. Its command: test_job_command.py.

| promise (design, function 4) | test |
|---|---|
| the job is the one of the guide's JSON, with its line; nothing is started | as_the_guide_calls_it |
| licences to wait for, by keyword or as the two arguments behind the command of the guide's later versions | licences |
| numbers may be texts, an input is unpacked unless it says otherwise, no project is null, names stay | values |
| what the platform refuses is told in its words, at once | test_faults.py |
| what cannot be right is named with its value, and nothing is sent | cannot_be_right, number_of_arguments |
| Abaqus in the background is refused, for the platform's own check is switched off | abaqus |
"""

import math
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import RIGHT_VALUES, here
from in_memory import PLATFORM, TOKEN, connect


def test_a_job_is_set_up_as_the_guide_calls_it(access, sim, capsys):
    Path("rescale.tar.gz").write_bytes(b"x")
    inputfiles_list = rescale.upload_local_files(*access)
    capsys.readouterr()
    job_id = rescale.job_setup(
        *access, "me@static@1", "abaqus job=static interactive\n", "abaqus", "2022-2241",
        {"LM_LICENSE_FILE": "27000@license-server"}, "starlite_max", 4, 1, 24, "xDdRk", inputfiles_list,
    )
    assert capsys.readouterr().out == f"Job_ID: {job_id}\n"
    body = sim.jobs[job_id].body
    [tile] = body["jobanalyses"]
    assert (body["name"], body["projectId"], body["isLowPriority"], sim.starts) == ("me@static@1", "xDdRk", False, {})
    assert tile.pop("command").count("abaqus job=static interactive\n") == 1
    assert tile == {
        "analysis": {"code": "abaqus", "version": "2022-2241"}, "envVars": {"LM_LICENSE_FILE": "27000@license-server"},
        "hardware": {"coreType": "starlite_max", "coresPerSlot": 4, "slots": 1, "walltime": 24},
        "inputFiles": inputfiles_list, "flags": {"igCv": True}, "useRescaleLicense": False,
        "userDefinedLicenseSettings": None,
    }


@pytest.mark.parametrize(("arguments", "keywords", "features"), [
    ((), {}, {}), ((), {"license_features": {"abaqus": 8, "qex": "2"}}, {"abaqus": 8, "qex": 2}),
    (("abaqus", 8), {}, {"abaqus": 8}), (("abaqus", "12"), {}, {"abaqus": 12}), (("", ""), {}, {}),
    ((), {"feature_name": "abaqus", "feature_count": 8}, {"abaqus": 8}),
    ((), {"feature_name": "", "feature_count": ""}, {}),
    *((pair, {}, None) for pair in [("abaqus", 0), ("abaqus", "many"), ("abaqus", ""), ("", 8)]),  # refused
], ids=str)
def test_licences_to_wait_for_and_the_two_arguments_behind_the_command(arguments, keywords, features, access, sim):
    before, behind = list(RIGHT_VALUES.values())[:2], list(RIGHT_VALUES.values())[2:]
    if features is None:
        with pytest.raises(rescale.RescaleError, match="license_features"):
            rescale.job_setup(*access, *before, *arguments, *behind, **keywords)
        assert not sim.requests
    else:
        [tile] = sim.jobs[rescale.job_setup(*access, *before, *arguments, *behind, **keywords)].body["jobanalyses"]
        sets = (tile["userDefinedLicenseSettings"] or {"featureSets": [{"features": []}]})["featureSets"]
        assert [{one["name"]: one["count"] for one in each["features"]} for each in sets] == [features]
        assert (tile["analysis"]["code"], tile["hardware"]["walltime"]) == ("user_included", 1)


@pytest.mark.parametrize("count", [12, 14, 16])
def test_another_number_of_arguments_is_the_callers_mistake_and_nothing_is_sent(count, access, sim):
    with pytest.raises(TypeError):
        rescale.job_setup(*access, *["1"] * (count - 2))
    assert not sim.requests


@pytest.mark.parametrize("job_name", ["me@rod@20261122-101112", "압력 해석 (1)", ".hidden", "-rf", "a.b", "x" * 200])
def test_values_may_be_texts_and_a_name_that_can_name_files_stays(job_name, access, sim, set_up):
    Path("rescale.tar.gz").touch()
    [entry] = rescale.upload_local_files(*access)
    values = {"walltime": " 24 ", "core_per_slot": "4", "slot": 1.0, "version_code": 0, "projectid": ""}
    inputs = [{"id": entry["id"]}, {"id": entry["id"], "decompress": False}]
    body = sim.jobs[set_up(job_name=job_name, inputfiles_list=inputs, **values)].body
    [tile] = body["jobanalyses"]
    assert (body["name"], body["projectId"], tile["analysis"]["version"]) == (job_name, None, "0")
    assert tile["hardware"] == {"coreType": "emerald", "coresPerSlot": 4, "slots": 1, "walltime": 24}
    assert tile["inputFiles"] == [{**inputs[0], "decompress": True}, inputs[1]]


BAD_VALUES = {
    "job_name": ["", "  ", ".", "..", "a/b", "../b", "a\nb", "a\0b", "a\x7fb", "long " * 41, "긴" * 70, None, 5],
    "command": ["", " \n", None, ["abaqus"]], "code_name": ["", None, 5], "coretype_code": ["", None],
    "core_per_slot": [0, -4, "four", 1.5, None, True, ""], "slot": [0, "one", None],
    "walltime": [0, -1, "1h", 0.5, 1.5, None, True, math.nan, math.inf, "", [1], 10 ** 400],
    "license_info": ["27000@host", ["LM_LICENSE_FILE"], [("A", "b")], {5: "27000@host"}, {"": "27000@host"}, 5, None],
    "inputfiles_list": [None, "dxGonb", {"id": "dxGonb"}, ["dxGonb"], [{"decompress": True}], [{"id": 5}], [{"id": ""}],
                        [None], [{"id": "dxGonb"}, "dxGonb"]],
    "license_features": ["abaqus", ["abaqus"], {"abaqus": 0}, {"abaqus": "many"}],
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_value_that_cannot_be_right_is_named_and_nothing_is_sent(name, clock):
    transport = connect(lambda _: (201, {"id": "abCdEf"}))
    for value in BAD_VALUES[name]:
        with pytest.raises(rescale.RescaleError, match=name) as refused:
            rescale.job_setup(PLATFORM, TOKEN, **{**RIGHT_VALUES, name: value})
        shown = next(iter(value.values())) if name == "license_features" and isinstance(value, dict) else value
        plain = ["".join(text.replace("\\", "").split()) for text in (repr(shown), str(refused.value))]
        assert plain[0][:20] in plain[1]
    assert (transport.count, here()) == (0, [])


IN_THE_BACKGROUND = [
    "abaqus job=rod", "cp a b; abq2024 JOB=rod input=r.inp && echo done", "(cd sub; abaqus job=rod)",
    "/opt/abaqus/bin/abaqus job = rod cpus=4  # interactive", "abaqus job=rod \\\n  cpus=4\n",
    "abaqus job=one interactive\nabaqus job=two\n", "if true; then LANG=C abaqus job=rod; fi",
    "abaqus analysis job=rod", "abaqus job=interactive", 'abaqus job="x" user=interactive.f | tee log',
]
IN_ORDER = [
    "abaqus job=rod cpus=4 inter\n", "abaqus interactive job=rod", "abaqus job=rod INT",
    "abaqus job=rod \\\n  cpus=4 \\\n  interactive\n", "true # abaqus job=rod",
    "cp a b && abaqus job=x cpus=4 interactive mp_mode=mpi && python post.py job=x", "abaqus terminate job=rod",
    "abaqus python post.py job=rod", "abaqus cae noGUI=post.py -- job=rod", "solver job=rod", "abaqus fetch job=beam",
    "echo the job=rod of abaqus", "./my-abaqus-wrapper job=rod", "abaqus job=rod 2>&1 interactive",
    "log=$(abaqus job=rod interactive)", "sh -c \"cd sub && abaqus job=rod interactive\"",
]


@pytest.mark.parametrize("command", IN_THE_BACKGROUND + IN_ORDER, ids=repr)
def test_abaqus_that_the_job_would_end_before_is_refused_and_other_calls_are_not(command, clock):
    transport = connect(lambda _: (201, {"id": "abCdEf"}))
    if command in IN_THE_BACKGROUND:
        with pytest.raises(rescale.RescaleError, match="interactive"):
            rescale.job_setup(PLATFORM, TOKEN, **{**RIGHT_VALUES, "command": command})
        assert transport.count == 0
    else:
        assert rescale.job_setup(PLATFORM, TOKEN, **{**RIGHT_VALUES, "command": command}) == "abCdEf"
