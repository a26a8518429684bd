import pandas as pd

from lottery.report.sections import published
from tests.factory import record_of, sweep_of


def of_the_hub(perplexities):
    found = sweep_of("mistral-7b", perplexities)
    return [record.model_copy(update={"kind": "hub", "source": f"mistralai/Mistral-7B-v0.1@{'0' * 40}"}) for record in found]


def test_every_figure_has_a_protocol_a_source_and_a_standing():
    data = published.figures()
    assert len(data) > 30
    assert not data.isna().any().any()
    assert set(data["standing"]) <= {"primary", "secondhand", "to be re-measured"}


def test_a_measured_figure_stands_beside_the_published_one_of_the_same_model_method_and_share():
    found = published.beside(of_the_hub([5.25, 6.5, 1200, 30000]), "wikitext-2-raw")
    assert set(found["model"]) == {"Mistral-7B-v0.1"}
    assert set(found.loc[found["method"] == "dense", "here"]) == {5.25}
    assert found.loc[found["pattern"] == "70%", "here"].item() == 1200
    told = published.told(of_the_hub([5.30, 6.5, 1200, 30000]), "wikitext-2-raw")
    assert "Mistral-7B-v0.1 dense +0.9%" in told, "beside 5.253"
    assert "magnitude 50%" not in told.split("Measured here against published:")[1].split(".\n")[0], "the first table is no yardstick"


def test_another_text_does_not_count_as_measured():
    assert published.beside(of_the_hub([5.25, 6.5, 7, 8]), "stories")["here"].isna().all()


def test_stand_ins_stand_beside_nothing_and_that_is_said():
    told = published.told(sweep_of("mistral-7b", [1, 2, 3, 4]), "stories")
    assert "Nothing stands under *Here*, because stand-ins were measured" in told
    assert told.count(" – |") == 6, "a row a figure on Mistral 7B"


def test_the_first_table_is_set_beside_the_full_test():
    told = published.told(of_the_hub([5.25, 6.5, 7, 8]), "wikitext-2-raw")
    assert "gave its dense model 4.00. The full test in windows of 2048 tokens gives 5.25 elsewhere, 31% more" in told
    assert "its 50% (6.46) looks 1.61 times as bad as the dense model, against 5.25 only 1.23 times" in told


def test_how_much_the_method_decides_is_told_from_the_figures():
    assert "Llama-3-8B at 50% (2048 tokens): magnitude 2,499, ria 9.34" in published.told(of_the_hub([5, 6, 7, 8]), "wikitext-2-raw")


def test_a_checkpoints_own_name_is_found_in_an_id_and_in_a_pin():
    assert published.name_of(f"Qwen/Qwen2.5-0.5B@{'0' * 40}") == "Qwen2.5-0.5B"
    assert published.name_of(f"wheel:a==1.0,b==1.0/SmolLM2-135M.Q4_1.gguf#sha256={'0' * 64}") == "SmolLM2-135M.Q4_1.gguf"


def test_models_that_nobody_published_are_told_so():
    assert published.told([record_of("mine", "dense", 0.0)], "stories").startswith("None of these models is among those")
    assert isinstance(published.beside([], "stories"), pd.DataFrame)
