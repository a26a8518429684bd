import math

import pytest

from lottery.analysis import published
from lottery.report.sections.published import told
from tests.factory import record_of, sweep_of


def of_the_hub(perplexities):
    found = sweep_of("mistral-7b", perplexities)
    kind = {"kind": "hub", "source": f"mistralai/Mistral-7B-v0.1@{'0' * 40}"}
    return [r.model_copy(update={**kind, "request": r.request.model_copy(update={"seq_len": 2048})}) for r in found]


def test_every_figure_has_a_protocol_a_source_and_a_standing():
    data = published.figures()
    assert len(data) > 30
    assert not data.isna().any().any()
    assert set(data["standing"]) <= {"primary", "secondhand", "to be re-measured"}


def test_a_measured_figure_stands_beside_the_published_one_of_the_same_model_method_and_share():
    found = published.beside(of_the_hub([5.25, 6.5, 1200, 30000]), "wikitext-2-raw")
    assert set(found["model"]) == {"Mistral-7B-v0.1"}
    dense = found[(found["method"] == "dense")].set_index("protocol")["here"]
    assert dense["2048"] == 5.25
    assert math.isnan(dense["llama.cpp ctx512 half-window"]), "another protocol gives another figure"
    assert found.loc[found["pattern"] == "70%", "here"].item() == 1200
    assert published.differences(found)[0] == ("Mistral-7B-v0.1", "dense", pytest.approx(5.25 / 5.253 - 1)), "beside 5.253"
    assert all(at.variant != "magnitude 50%" for at in published.differences(found)), "the first table is no yardstick"


def test_another_text_does_not_count_as_measured():
    assert published.beside(of_the_hub([5.25, 6.5, 7, 8]), "stories")["here"].isna().all()


@pytest.mark.parametrize("change", [{"seq_len": 512}, {"max_windows": 20}])
def test_other_windows_or_some_of_them_do_not_count_as_measured(change):
    found = [r.model_copy(update={"request": r.request.model_copy(update=change)}) for r in of_the_hub([5.25, 6.5, 7, 8])]
    assert published.beside(found, "wikitext-2-raw")["here"].isna().all()


def test_stand_ins_stand_beside_nothing_and_that_is_said():
    said = told(published.beside(sweep_of("mistral-7b", [1, 2, 3, 4]), "stories"), stand_ins=True)
    assert "*Here* is empty because stand-ins were measured" in said
    assert said.count(" – |") == 6, "a row a figure on Mistral 7B"


def test_the_first_table_is_set_beside_the_full_test():
    assert published.first_table() == ("Mistral-7B-v0.1", 4.0, 6.46, 5.253)


def test_how_much_the_method_decides_is_told_from_the_figures():
    assert ("Llama-3-8B", "50%", "2048", 2499.39, "ria", 9.34) in published.magnitude_gaps()
    assert all(at.lowest <= at.magnitude for at in published.magnitude_gaps())


def test_a_checkpoints_own_name_is_found_in_an_id_and_in_a_pin():
    assert published.name_of(f"Qwen/Qwen2.5-0.5B@{'0' * 40}") == "Qwen2.5-0.5B"
    assert published.name_of(f"wheel:a==1.0,b==1.0/SmolLM2-135M.Q4_1.gguf#sha256={'0' * 64}") == "SmolLM2-135M.Q4_1.gguf"


def test_of_models_that_nobody_published_there_is_nothing():
    assert published.beside([record_of("mine", "dense", 0.0)], "stories").empty
    assert published.beside([], "stories").empty
