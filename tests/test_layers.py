import pytest

from lottery.analysis import layers
from lottery.analysis.layers import Extremes, UnevenWay, WhereZerosAre
from lottery.report.sections import zeros
from tests.factory import record_of, sweep_of

EVEN = sweep_of("a", [10, 12, 40, 90])
UNEVEN = {
    "model.layers.0.self_attn.q_proj": 0.9, "model.layers.0.mlp.up_proj": 0.5,
    "model.layers.1.self_attn.q_proj": 0.5, "model.layers.1.mlp.up_proj": 0.1,
}  # fmt: skip


def whole(model="a"):
    return [record_of(model, "magnitude-global", level, layers=UNEVEN) for level in (0.4, 0.5, 0.6)]


def where(*records):
    return layers.where_zeros_are(layers.zeros(list(records)))


def test_each_layer_of_each_pruned_variant_is_a_row():
    found = layers.zeros(EVEN)
    assert len(found) == 3 * 4
    assert set(found["kind"]) == {"self_attn.q_proj", "mlp.up_proj"}
    assert set(found["block"]) == {0, 1}
    assert layers.zeros(EVEN[:1]).empty


def test_even_and_uneven_ways_are_told_apart():
    assert layers.uneven(layers.zeros(EVEN)) == {}
    found = layers.uneven(layers.zeros([*EVEN, *whole()]))
    assert list(found) == ["magnitude-global"]
    assert set(found["magnitude-global"]["sparsity"]) == {0.5}, "the middle one"
    kinds, blocks = (
        Extremes("mlp.up_proj", pytest.approx(0.3), "self_attn.q_proj", pytest.approx(0.7)),
        Extremes(1, pytest.approx(0.3), 0, pytest.approx(0.7)),
    )
    assert where(*EVEN, *whole()) == WhereZerosAre(["magnitude"], [UnevenWay("magnitude-global", 0.5, kinds, blocks)])


def test_a_kind_or_a_block_is_named_only_where_it_differs():
    by_block = {name: 0.4 + 0.2 * int(".1." in name) for name in UNEVEN}
    found = where(record_of("a", "wanda", 0.5, layers=by_block, allocation="owl"))
    assert found == WhereZerosAre([], [UnevenWay("wanda + owl", 0.5, None, Extremes(0, pytest.approx(0.4), 1, pytest.approx(0.6)))])


def test_a_pattern_is_another_way_than_a_sparsity_with_as_many_zeros():
    """Where inputs are dead a calibrated method leaves more zeros than 2:4 has; both are at 50%, and each has a map of its own."""
    dead = {name: 0.5 + 0.06 * int("mlp" in name) for name in UNEVEN}
    two_four = [record_of("a", "sparsegpt", 0.5, layers=dead, pattern="2:4")]
    found = zeros.picture([record_of("a", "sparsegpt", 0.5), *two_four])
    assert "a, sparsegpt 2:4: from 50% in block 0 self_attn.q_proj to 56% in block 0 mlp.up_proj." in found.alt


def test_several_ways_with_one_way_of_spreading_are_one_map():
    owl = [record_of("a", method, 0.5, layers=UNEVEN, allocation="owl") for method in ("wanda", "magnitude")]
    assert list(layers.uneven(layers.zeros(owl))) == ["wanda + owl"]


def test_maps_are_drawn_where_there_is_something_to_see_and_told_in_words():
    assert zeros.picture(EVEN) is None
    picture = zeros.picture([*EVEN, *whole(), *whole("b")])
    assert "a, magnitude-global: from 10% in block 1 mlp.up_proj to 90% in block 0 self_attn.q_proj." in picture.alt
    assert "b, magnitude-global" in picture.alt
    assert ">q_proj<" in picture.svg or "q_proj" in picture.svg


def test_a_table_says_how_much_of_each_model_lies_where():
    lines = zeros.share_table(EVEN).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        "Model", "Weights", "In self_attn", "In mlp", "Never pruned", "Zeros at 50%", "Zeros at 70%", "Zeros at 90%"
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["a", "1,000", "25%", "25%", "50%", "25%", "35%", "45%"]


def test_of_many_sparsities_the_table_names_five():
    records = [record_of("a", "dense", 0.0), *(record_of("a", "magnitude", level / 100) for level in (5, *range(10, 100, 10)))]
    head = zeros.share_table(records).splitlines()[0]
    assert [cell.strip() for cell in head.strip("|").split("|")][5:] == [f"Zeros at {level}%" for level in (10, 30, 50, 70, 90)]


def test_without_pruned_variants_there_are_no_zeros_to_look_for():
    assert where(EVEN[0]) is None
