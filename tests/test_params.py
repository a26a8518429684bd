import pytest
import yaml

from lottery.common.errors import ParamsError
from lottery.config.profile import load_profile, validated
from lottery.report.notebook import notebook_parameters
from tests.conftest import ROOT, TOY


@pytest.mark.parametrize("name", ["demo", "full"])
def test_the_profiles_that_ship_are_valid(name):
    profile = load_profile(name)
    assert profile.profile == name
    assert list(profile.checkpoints) == ["mistral-7b", "qwen2.5-7b", "smollm2-1.7b", "phi-2", "qwen2.5-0.5b"]
    assert profile.sparsities == [0.5, 0.7, 0.9]
    assert profile.new_tokens == 50


def test_the_full_profile_is_the_standard_protocol_at_pinned_revisions():
    profile = load_profile("full")
    assert (profile.text, profile.seq_len, profile.max_windows) == ("wikitext-2-raw", 2048, None)
    assert all(len(value.split("@")[1]) == 40 for value in profile.checkpoints.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsties": [0.5]}, "unknown key 'sparsties' (given [0.5]), did you mean 'sparsities'?; allowed: profile, extends, checkpoints, "),
        ({1: 2}, "unknown key 1 (given 2); allowed: profile, "),
        ({"zzz": 1}, "unknown key 'zzz' (given 1); allowed: profile, "),
        ({"temperature": "1e-4"}, "temperature: given '1e-4' (text: write numbers in YAML without quotes, and 1e-4 as 1.0e-4); allowed: a number above 0, at most 2"),
        ({"sparsities": [0.5, 1.0]}, "sparsities[1]: given 1.0; allowed: a list of numbers, each at least 0 and below 1, such as [0.5, 0.7]"),
        ({"sparsities": [-0.1]}, "sparsities[0]: given -0.1; allowed: a list of numbers, each at least 0 and below 1"),
        ({"sparsities": [float("nan")]}, "sparsities[0]: given nan; allowed: a list of numbers"),
        ({"sparsities": 0.5}, "sparsities: given 0.5; allowed: a list of numbers"),
        ({"sparsities": []}, "sparsities: given []; allowed: a list of numbers"),
        ({"sparsities": [0.5, 0.5]}, "sparsities: given [0.5, 0.5], with repeats; allowed: each value once"),
        ({"methods": ["wand"]}, "methods[0]: given 'wand'; allowed: a list of admm, alps"),
        ({"seq_len": "2048"}, "seq_len: given '2048' (text: write numbers in YAML without quotes"),
        ({"seq_len": 2048.0}, "seq_len: given 2048.0; allowed: a whole number of tokens a window, 2 to 131072"),
        ({"repeats": True}, "repeats: given True; allowed: a whole number of timed repeats, 1 to 100"),
        ({"dtype": "fp16"}, "dtype: given 'fp16'; allowed: auto, float32, float16 or bfloat16"),
        ({"text": "c4"}, "text: given 'c4', which is for calibration: 800 MB of its training split; allowed: a file with some of it"),
        ({"checkpoints": {"report": "stand-in:phi-2"}}, "checkpoints: given 'report'; allowed: any other name for a model than winning-ticket, "),
        ({"checkpoints": {}}, "checkpoints: given {}; allowed: a mapping from the name of a model to its checkpoint"),
        ({"methods": ["w" * 100_000]}, "methods[0]: given 'wwwwww…"),
        ({"x" * 100_000: 1}, "unknown key 'xxxxxx…"),
        ({"text": {"a": ["b" * 100_000]}}, "text: given {'a': ['bbbbbb…"),
        ({"seq_len": 1, "repeats": 0}, "seq_len: given 1; allowed: a whole number of tokens a window, 2 to 131072 (and 1 more)"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_that_names_key_given_and_allowed(change, message):
    with pytest.raises(ParamsError) as caught:
        validated({**TOY, **change})
    assert str(caught.value).startswith(message.split("…")[0]) or message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000, "a value of 100,000 characters was once echoed whole"


def test_a_missing_key_is_named():
    values = dict(TOY)
    del values["text"]
    with pytest.raises(ParamsError, match=r"^text: not given; allowed: 'stories', 'training-stories', 'wikitext-2-raw', or the path of a"):
        validated(values)


def test_an_unknown_profile_names_those_that_exist(project):
    with pytest.raises(ParamsError) as caught:
        load_profile("dmeo")
    assert (
        str(caught.value)
        == "profile: given 'dmeo'; allowed: the name of a file in params/ (demo, full, full-methods, methods, real, real-allocation, real-bytes, real-methods, real-models, real-one-shot, real-recovery, ticket)"
    )


@pytest.mark.parametrize("name", ["../demo", "", 3, "Demo Profile"])
def test_a_profile_name_cannot_leave_its_folder(project, name):
    with pytest.raises(ParamsError, match="allowed: the name of a file in params/"):
        load_profile(name)


def test_a_whole_profile_may_come_as_parameters(project):
    given = {key: value for key, value in TOY.items() if key != "profile"}
    assert load_profile("mine", **given).profile == "mine"


def write(project, **profiles):
    for name, values in profiles.items():
        (project / "params" / f"{name}.yaml").write_text(yaml.safe_dump(values))


def test_a_profile_takes_the_keys_of_the_one_that_it_extends_and_changes_single_ones(project):
    write(
        project,
        base={**TOY, "seed": 1, "repeats": 3},
        middle={"extends": "base", "seed": 2, "repeats": 4},
        top={"extends": "middle", "seed": 3},
    )
    profile = load_profile("top")
    assert (profile.profile, profile.seed, profile.repeats, profile.seq_len) == ("top", 3, 4, TOY["seq_len"])
    assert profile.model_dump() == {**load_profile("base").model_dump(), "profile": "top", "seed": 3, "repeats": 4}
    assert load_profile("top", seed=9).seed == 9


def test_a_mapping_is_replaced_whole_and_null_takes_it_away(project):
    write(project, mine={"extends": "demo", "checkpoints": {"one": "stand-in:phi-2"}, "tickets": None})
    profile = load_profile("mine")
    assert profile.checkpoints == {"one": "stand-in:phi-2"}
    assert profile.tickets is None
    write(project, part={"extends": "demo", "tickets": {"levels": 3}})
    with pytest.raises(ParamsError, match=r"^tickets\['models'\]: not given"):
        load_profile("part")


def test_parameters_may_extend_a_profile_too(project):
    """That is how ``papermill -f params/ticket.yaml`` arrives."""
    given = yaml.safe_load((project / "params" / "ticket.yaml").read_text())
    name = given.pop("profile")
    assert load_profile(name, **given).model_dump() == load_profile("ticket").model_dump()
    assert load_profile("mine", **given).model_dump() == {**load_profile("ticket").model_dump(), "profile": "mine"}


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ({"a": {"extends": "a"}}, "extends: given 'a', a circle: a > a; allowed: a profile outside it, or null"),
        ({"a": {"extends": "b"}, "b": {"extends": "a"}}, "extends: given 'a', a circle: a > b > a; allowed: a profile outside it, or null"),
        ({"a": {"extends": "dmeo"}}, "extends: given 'dmeo'; allowed: the name of another profile in params/ (a, demo, full, full-methods, methods, real, real-allocation, real-bytes, real-methods, real-models, real-one-shot, real-recovery, ticket)"),
        ({"a": {"extends": ["demo"]}}, "extends: given ['demo']; allowed: the name of another profile in params/ (a, demo, "),
        ({"a": {"extends": "../demo"}}, "extends: given '../demo'; allowed: the name of another profile in params/ (a, demo, "),
        ({"a": {"extend": "demo"}}, "unknown key 'extend' (given 'demo'), did you mean 'extends'?; allowed: profile, extends, "),
    ],
)  # fmt: skip
def test_a_profile_that_cannot_be_extended_is_named_in_one_line(project, profiles, message):
    write(project, **profiles)
    with pytest.raises(ParamsError) as caught:
        load_profile("a")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_yaml_that_is_none_is_named(project):
    (project / "params" / "broken.yaml").write_text("a: [1, 2")
    with pytest.raises(ParamsError, match=r"^broken\.yaml is not YAML: "):
        load_profile("broken")
    (project / "params" / "list.yaml").write_text("- 1")
    with pytest.raises(ParamsError, match=r"^list\.yaml: given \[1\]; allowed: lines of 'key: value'"):
        load_profile("list")


def test_yaml_reads_1e_4_as_text_which_is_why_the_message_says_so():
    assert yaml.safe_load("a: 1e-4") == {"a": "1e-4"}
    assert yaml.safe_load("a: 1.0e-4") == {"a": 0.0001}


def test_parameters_are_taken_from_the_cells_that_set_them():
    history = ["", "# Parameters: own\nprofile = 'demo'", "# Parameters\nsparsties = [0.5]\nseed: int = 3", "x = 1"]
    found = notebook_parameters(history, {"profile": "demo", "sparsties": [0.5], "seed": 3, "x": 1})
    assert found == {"profile": "demo", "sparsties": [0.5], "seed": 3}


def test_a_mended_parameter_cell_counts_alone():
    history = ["# Parameters: own\nsparsties = [0.5]", "study = 1", "# Parameters: own\nsparsities = [0.5]"]
    assert notebook_parameters(history, {"sparsties": [0.5], "sparsities": [0.5]}) == {"sparsities": [0.5]}


def test_a_notebook_without_its_parameters_cell_is_told():
    with pytest.raises(ParamsError, match="run the notebook from its first cell"):
        notebook_parameters(["x = 1"], {"x": 1})


def test_every_parameter_has_a_description_that_says_what_is_allowed():
    from lottery.config.profile import Profile

    assert all(field.description for field in Profile.model_fields.values())
    assert {path.stem for path in (ROOT / "params").glob("*.yaml")} >= {"demo", "full"}
