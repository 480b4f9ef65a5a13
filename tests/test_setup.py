"""4. job_setup: the job that reaches the platform, and the values that never do. Its command: test_job_command.py."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import RIGHT_VALUES, here
from rescale_simulator import Fault, Simulator


@pytest.fixture(scope="module")
def quiet_sim(tmp_path_factory):
    """One simulator for all tests that only look at what reaches it."""
    with Simulator(tmp_path_factory.mktemp("platform"), speed=0) as simulator:
        yield simulator


# The job that reaches the platform


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
    (analysis,) = body["jobanalyses"]
    assert (body["name"], body["projectId"], body["isLowPriority"]) == ("me@static@1", "xDdRk", False)
    assert analysis["analysis"] == {"code": "abaqus", "version": "2022-2241"}
    assert analysis["envVars"] == {"LM_LICENSE_FILE": "27000@license-server"}
    assert analysis["hardware"] == {"coreType": "starlite_max", "coresPerSlot": 4, "slots": 1, "walltime": 24}
    assert analysis["inputFiles"] == inputfiles_list
    assert analysis["flags"] == {"igCv": True}  # or a tile's check of the command would find fault with the packing
    assert analysis["userDefinedLicenseSettings"] is None
    assert "abaqus job=static interactive\n" in analysis["command"]
    assert not sim.starts


FEATURES = {
    "none": ((), {}, None),
    "keyword": ((), {"license_features": {"abaqus": 8, "qex": "2"}}, {"abaqus": 8, "qex": 2}),
    "the guide's later versions": (("abaqus", 8), {}, {"abaqus": 8}),
    "the guide's later versions, a text": (("abaqus", "12"), {}, {"abaqus": 12}),
    "the guide's later versions, none": (("", ""), {}, None),
    "the guide's later versions, by name": ((), {"feature_name": "abaqus", "feature_count": 8}, {"abaqus": 8}),
    "the guide's later versions, none by name": ((), {"feature_name": "", "feature_count": ""}, None),
}


@pytest.mark.parametrize("case", FEATURES)
def test_licences_to_wait_for_are_counted_and_two_arguments_behind_the_command_are_such(case, access, sim):
    arguments, keywords, features = FEATURES[case]
    before, behind = list(RIGHT_VALUES.values())[:2], list(RIGHT_VALUES.values())[2:]
    body = sim.jobs[rescale.job_setup(*access, *before, *arguments, *behind, **keywords)].body
    (analysis,) = body["jobanalyses"]
    assert analysis["userDefinedLicenseSettings"] == (features and {
        "featureSets": [{"name": "USER_SPECIFIED", "features": [
            {"name": name, "count": count} for name, count in features.items()
        ]}]
    })
    assert (body["name"], analysis["analysis"], analysis["hardware"]["walltime"]) == (
        "job", {"code": "user_included", "version": "0"}, 1
    )


@pytest.mark.parametrize(
    "arguments", [("abaqus", 0), ("abaqus", "many"), ("abaqus", ""), ("", 8)],
    ids=["none", "word", "no count", "no name"],
)
def test_half_of_such_a_pair_of_arguments_is_refused(arguments, access, sim):
    before, behind = list(RIGHT_VALUES.values())[:2], list(RIGHT_VALUES.values())[2:]
    with pytest.raises(rescale.RescaleError, match="license_features"):
        rescale.job_setup(*access, *before, *arguments, *behind)
    assert not sim.requests


@pytest.mark.parametrize("count", [12, 14, 16])
def test_another_number_of_arguments_is_the_callers_mistake_and_nothing_is_sent(count, access, sim):
    with pytest.raises(TypeError):
        rescale.job_setup(*access, *["1"] * (count - 2))
    assert not sim.requests


@pytest.mark.parametrize("projectid", [None, ""])
def test_no_project_is_null(projectid, sim, set_up):
    assert sim.jobs[set_up(projectid=projectid)].body["projectId"] is None


def test_numbers_may_be_written_as_texts(sim, set_up):
    job_id = set_up(core_per_slot="4", slot=1.0, walltime=" 24 ", version_code=0)
    (analysis,) = sim.jobs[job_id].body["jobanalyses"]
    assert analysis["hardware"] == {"coreType": "emerald", "coresPerSlot": 4, "slots": 1, "walltime": 24}
    assert analysis["analysis"]["version"] == "0"


def test_licence_variables_reach_the_command(sim, run_job):
    job_id = run_job("test \"$LM_LICENSE_FILE\" = 27000@host\n", license_info={"LM_LICENSE_FILE": "27000@host"})
    assert sim.jobs[job_id].statuses[-1]["statusReason"] == "Completed successfully"


def test_an_input_file_is_unpacked_unless_it_is_said_otherwise(sim, set_up, access):
    Path("a").write_text("x")
    (entry,) = rescale.upload_local_files(*access, "a")
    for given, sent in (({}, True), ({"decompress": False}, False)):
        job_id = set_up(inputfiles_list=[{"id": entry["id"], **given}])
        assert sim.jobs[job_id].body["jobanalyses"][0]["inputFiles"] == [{"id": entry["id"], "decompress": sent}]


@pytest.mark.parametrize("job_name", ["me@rod@20261122-101112", "압력 해석 (1)", ".hidden", "-rf", "a.b", "x" * 200])
def test_a_job_name_that_can_name_files_is_kept_as_it_is(job_name, sim, set_up):
    assert sim.jobs[set_up(job_name=job_name)].body["name"] == job_name


# What the platform refuses is told in its words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"code_name": "abacus"}, ["analysis.code", "abacus"]),
        ({"code_name": "abaqus", "version_code": "6.14"}, ["analysis.version", "6.14"]),
        ({"coretype_code": "emerlad"}, ["hardware.coreType", "emerlad"]),
        ({"core_per_slot": 3}, ["hardware.coresPerSlot", "1, 2, 4, 8, 16, 18, 36"]),
        ({"walltime": 49}, ["hardware.walltime", "48"]),
        ({"projectid": "nOnE"}, ["projectId", "nOnE"]),
        ({"inputfiles_list": [{"id": "nOnE"}]}, ["inputFiles.0.id", "no such file"]),
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_the_platform_refuses_is_told_in_its_words(values, words, access, sim, capsys):
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.job_setup(*access, **{**RIGHT_VALUES, **values})
    assert "400" in str(refused.value)
    assert all(word in str(refused.value) for word in words)
    assert not sim.jobs
    assert len(sim.requests) == 1
    assert "Job_ID" not in capsys.readouterr().out


def test_a_missing_project_is_told_in_the_platforms_words(access, sim):
    sim.project_required = True
    with pytest.raises(rescale.RescaleError, match="projectId: This field is required"):
        rescale.job_setup(*access, **RIGHT_VALUES)


@pytest.mark.parametrize("fault", ["503", "reset_before", "html", "throttled"])
def test_a_set_up_that_goes_wrong_on_the_way_is_repeated(fault, sim, access, capsys):
    sim.faults.append(Fault(fault, times=2))
    job_id = rescale.job_setup(*access, **RIGHT_VALUES)
    assert list(sim.jobs) == [job_id]
    assert capsys.readouterr().out.count("Job_ID: ") == 1


# What cannot be right is refused before the platform is asked


BAD_VALUES = {
    "job_name": ["", "  ", ".", "..", "a/b", "../b", "a\nb", "a\0b", "a\x7fb", "long " * 41, "긴" * 70, None, 5],
    "command": ["", " \n", None, ["abaqus"]],
    "code_name": ["", None, 5],
    "coretype_code": ["", None],
    "core_per_slot": [0, -4, "four", 1.5, None, True, ""],
    "slot": [0, "one", None],
    "walltime": [0, -1, "1h", 0.5, 1.5, None, True, math.nan, math.inf, "", [1], 10 ** 400],
    "license_info": ["27000@host", ["LM_LICENSE_FILE"], [("A", "b")], {5: "27000@host"}, {"": "27000@host"}, 5, None],
    "inputfiles_list": [
        None, "dxGonb", {"id": "dxGonb"}, ["dxGonb"], [{"decompress": True}], [{"id": 5}], [{"id": ""}], [None],
        [{"id": "dxGonb"}, "dxGonb"],
    ],
    "license_features": ["abaqus", ["abaqus"], {"abaqus": 0}, {"abaqus": "many"}],
}


def plain(text):
    """Without blanks and backslashes, which a message may show otherwise."""
    return "".join(text.replace("\\", "").split())


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_value_that_cannot_be_right_is_named_and_nothing_is_sent(name, quiet_sim):
    before = len(quiet_sim.requests)
    for value in BAD_VALUES[name]:
        with pytest.raises(rescale.RescaleError) as refused:
            rescale.job_setup(quiet_sim.url, f"Token {quiet_sim.token}", **{**RIGHT_VALUES, name: value})
        shown = next(iter(value.values())) if name == "license_features" and isinstance(value, dict) else value
        assert name in str(refused.value)
        assert plain(repr(shown))[:20] in plain(str(refused.value))
    assert len(quiet_sim.requests) == before
    assert here() == []


def test_on_windows_more_names_cannot_name_files(quiet_sim, monkeypatch):
    access = quiet_sim.url, f"Token {quiet_sim.token}"
    monkeypatch.setattr(rescale, "WINDOWS", True)
    rescale.job_setup(*access, **{**RIGHT_VALUES, "job_name": "me@console.rod@1"})
    before = len(quiet_sim.jobs)
    for job_name in (
        "a:b", "a*b", "a?b", 'a"b', "a<b", "a|b", "a\\b", "ends.", "ends ", "con", "NUL.txt", "lpt1",
    ):
        with pytest.raises(rescale.RescaleError, match="job_name"):
            rescale.job_setup(*access, **{**RIGHT_VALUES, "job_name": job_name})
    assert len(quiet_sim.jobs) == before


# Abaqus in the background: the platform's check of the command is switched off, so it is ours


IN_THE_BACKGROUND = [
    "abaqus job=rod",
    "abaqus job=rod cpus=4\n",
    "cp a b; abaqus job=rod && echo done",
    "/opt/abaqus/Commands/abaqus job = rod cpus=4  # interactive",
    "abq2024 JOB=rod input=rod.inp",
    "abaqus job=rod \\\n  cpus=4\n",
    "abaqus job=one interactive\nabaqus job=two\n",
    "time abaqus job=rod",
    "LANG=C abaqus job=rod",
    "(cd sub; abaqus job=rod)",
    "abaqus analysis job=rod",
    "abaqus job=interactive",
    "abaqus job=rod | tee log",
    "if true; then abaqus job=rod; fi",
    'abaqus job="rod" user=interactive.f',
]
IN_ORDER = [
    "abaqus job=rod interactive",
    "abaqus job=rod cpus=4 inter\n",
    "abaqus interactive job=rod",
    "abaqus job=rod INTERACTIVE",
    "abaqus job=rod \\\n  cpus=4 \\\n  interactive\n",
    "cp a b && abaqus job=x cpus=4 interactive mp_mode=mpi && python post.py job=x",
    "abaqus terminate job=rod",
    "abaqus suspend job=rod",
    "# abaqus job=rod\ntrue\n",
    "true # abaqus job=rod",
    "abaqus cae noGUI=post.py -- job=rod",
    "abaqus python post.py job=rod",
    "abaqus information=release",
    "abaqus fetch job=beam",
    "echo the job=rod of abaqus",
    "./my-abaqus-wrapper job=rod",
    "solver job=rod",
    "(abaqus job=rod interactive)",
    "log=$(abaqus job=rod interactive)",
    "sh -c \"cd sub && abaqus job=rod interactive\"",
    "abaqus job=rod interactive; echo abaqus",
    "abaqus job=rod interactive > log 2>&1",
]


@pytest.mark.parametrize("number", range(len(IN_THE_BACKGROUND)))
def test_abaqus_without_interactive_is_refused_for_the_job_would_end_before_it(number, quiet_sim):
    before = len(quiet_sim.requests)
    command = IN_THE_BACKGROUND[number]
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.job_setup(quiet_sim.url, f"Token {quiet_sim.token}", **{**RIGHT_VALUES, "command": command})
    assert "interactive" in str(refused.value)
    assert len(quiet_sim.requests) == before


@pytest.mark.parametrize("number", range(len(IN_ORDER)))
def test_other_calls_of_abaqus_are_left_alone(number, quiet_sim):
    command = IN_ORDER[number]
    assert rescale.job_setup(quiet_sim.url, f"Token {quiet_sim.token}", **{**RIGHT_VALUES, "command": command})
