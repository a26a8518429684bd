import pytest

from lottery.common.errors import ParamsError
from lottery.config.profile import validated
from lottery.pruning.catalogue import METHODS
from lottery.pruning.pattern import Pattern
from lottery.pruning.variants import variants
from tests.conftest import TOY


def labels(methods, allocations=("uniform",), patterns=("unstructured",), sparsities=(0.5,)):
    return [f"{v.label} {v.sparsity:g}" for v in variants(list(methods), list(allocations), list(patterns), list(sparsities))]


def test_the_dense_model_first_then_every_combination_that_makes_sense():
    assert labels(["magnitude", "magnitude-global"], ["uniform", "owl"], ["unstructured", "2:4"], [0.7, 0.5]) == [
        "dense 0", "magnitude 0.5", "magnitude 0.7", "magnitude 2:4 0.5", "magnitude + owl 0.5", "magnitude + owl 0.7",
        "magnitude-global 0.5", "magnitude-global 0.7",
    ]  # fmt: skip


def test_which_variants_need_calibration_data():
    found = variants(list(METHODS), ["uniform", "owl"], ["unstructured"], [0.5])
    assert {v.label for v in found if not v.calibrated} == {"dense", "magnitude", "magnitude-global", "random"}


def test_n_of_n_m_counts_what_stays():
    assert [(p.kept, p.zeros, p.sparsity) for p in map(Pattern.parse, ("2:4", "1:4", "3:4"))] == [(2, 2, 0.5), (1, 3, 0.75), (3, 1, 0.25)]


@pytest.mark.parametrize("text", ["2:2", "4:2", "0:4", "2:4:8", "two:four", "2.0:4", "", "-1:4"])
def test_what_is_no_pattern(text):
    with pytest.raises(ValueError, match="is no pattern"):
        Pattern.parse(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["wandaa"]}, "methods[0]: given 'wandaa'; allowed: a list of admm, alps, magnitude, magnitude-global, random, ria, sparsegpt, wanda"),
        ({"allocation": "owls"}, "allocation[0]: given 'owls'; allowed: alphapruning, dlp, owl, uniform, or a list of them"),
        ({"pattern": "4:2"}, "pattern: given '4:2'; allowed: 'unstructured', 'N:M' in quotes with N below M, such as '2:4', or a list of them"),
        ({"pattern": 124}, "pattern: given 124; allowed: 'unstructured', 'N:M' in quotes with N below M, such as '2:4', or a list of them"),
        (
            {"pattern": "1:4", "sparsities": [0.25]},
            "pattern: given '1:4', which keeps 1 of every 4, a sparsity of 0.75, with sparsities [0.25]; add 0.75 to them",
        ),
        (
            {"pattern": "2:4", "sparsities": [0.5, 0.7]},
            "sparsities: given 0.7, which pattern 2:4 contradicts; drop it, or add 'unstructured' to pattern",
        ),
        (
            {"methods": ["magnitude-global"], "allocation": "alphapruning"},
            "methods: given 'magnitude-global', which is incompatible with everything else in the profile; N:M needs allocation: uniform,"
            " magnitude-global needs allocation: uniform and pattern: unstructured",
        ),
        (
            {"methods": ["wanda"]},
            "calibration_text: not given, but wanda needs it; allowed: 'training-stories', 'c4', or the path of a .txt, .raw or .jsonl file;"
            " not the text that is scored",
        ),
        (
            {"allocation": "owl"},
            "calibration_text: not given, but magnitude + owl needs it; allowed: 'training-stories', 'c4', or the path of a .txt, .raw or"
            " .jsonl file; not the text that is scored",
        ),
        ({"methods": ["wanda"], "calibration_text": "stories"}, "calibration_text: given 'stories', the text that is scored; allowed: another one"),
    ],
)  # fmt: skip
def test_a_profile_that_makes_no_sense_is_one_line(change, message):
    with pytest.raises(ParamsError) as caught:
        validated({**TOY, "sparsities": [0.5], **change})
    assert str(caught.value) == message


def test_a_pattern_goes_with_its_sparsity_as_the_message_writes_it():
    thirds = {**TOY, "pattern": "1:3", "sparsities": [0.5]}
    with pytest.raises(ParamsError, match=r"; add 0\.666667 to them"):
        validated(thirds)
    assert [v.title for v in validated({**thirds, "sparsities": [0.666667]}).variants] == ["dense", "magnitude\u00a01:3"]


def test_single_values_are_lists_of_one():
    profile = validated({**TOY, "methods": "wanda", "pattern": "2:4", "sparsities": [0.5], "calibration_text": "training-stories"})
    assert (profile.methods, profile.allocation, profile.pattern) == (["wanda"], ["uniform"], ["2:4"])
