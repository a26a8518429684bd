import copy
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from lottery.common.errors import LotteryError
from lottery.experiments.imp.records import sparsity_of
from lottery.models.blocks import prunable
from lottery.models.standins.architectures import ARCHITECTURES
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant
from lottery.training.masks import _draw, mask_of, nonzero_outside, random_mask, shuffled_mask
from lottery.training.trainer import Schedule, held_out_loss, new_optimizer, rate, train

SHORT = Schedule(6, 2, 3e-3)
NAMES = ["qwen2.5-0.5b", "phi-2"]


def fresh(name="qwen2.5-0.5b", seed=0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(copy.deepcopy(ARCHITECTURES[name])).float()


def batches(count=SHORT.steps):
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(1, 500, (2, 32), generator=draw) for _ in range(count)]


def test_a_training_is_that_of_a_plain_loop():
    ours, plain = fresh(), fresh()
    train(ours, batches(), SHORT)
    decayed = [
        {"params": [p for p in plain.parameters() if (p.ndim > 1) == matrices], "weight_decay": decay}
        for matrices, decay in ((True, 0.1), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(decayed, betas=(0.9, 0.95), fused=True)
    for step, batch in enumerate(batches()):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 if not step else 3e-3 * (1 + math.cos(math.pi * (step - 1) / 5)) / 2
        plain(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


def test_the_rate_rises_to_its_peak_and_falls_along_half_a_cosine():
    long = Schedule(1000, 2, 2.0)
    assert [rate(step, long) for step in (0, 49, 99, 100)] == [0.02, 1.0, 2.0, 2.0]
    assert rate(550, long) == pytest.approx(1.0)
    assert rate(325, long) == pytest.approx(1 + math.sqrt(0.5))
    assert rate(999, long) == pytest.approx(0, abs=1e-4)
    assert [rate(step, Schedule(40, 2, 2.0)) for step in range(6)] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_no_pruned_weight_ever_moves_and_every_other_does(name, scope):
    """Observed after every step, beyond warm-up and decay; also that of kept weights none is held by mistake."""
    model = fresh(name)
    masks = mask_of(model, 0.8, scope)
    before = {layer: linear.weight.detach().clone() for layer, linear in prunable(model).items()}
    seen = []
    train(model, batches(20), Schedule(20, 2, 1e-2), masks=masks, observe=lambda _: seen.append(nonzero_outside(model, masks)))
    assert seen == [0] * 20
    for layer, linear in prunable(model).items():
        assert (linear.weight != before[layer])[masks[layer]].all()
    kept, weights = sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())
    assert kept / weights == pytest.approx(0.2, abs=1e-3)


def test_the_moments_of_pruned_weights_stay_nought(monkeypatch):
    model = fresh()
    masks, made = mask_of(model, 0.7, "layer"), []
    monkeypatch.setattr("lottery.training.trainer.new_optimizer", lambda *given: made.append(new_optimizer(*given)) or made[0])
    train(model, batches(), SHORT, masks=masks)
    for name, layer in prunable(model).items():
        state = made[0].state[layer.weight]
        assert not state["exp_avg"][~masks[name]].any()
        assert not state["exp_avg_sq"][~masks[name]].any()
        assert state["exp_avg"][masks[name]].all()


def test_a_training_can_start_late_and_be_ended_early():
    model, done = fresh(), []
    train(model, batches(4), SHORT, first=2, observe=done.append)
    assert done == [3, 4, 5, 6]
    done.clear()
    train(model, batches(), SHORT, observe=lambda step: done.append(step) or step == 3)
    assert done == [1, 2, 3]
    train(model, [], SHORT, first=9)


def test_faults_are_one_line():
    with pytest.raises(LotteryError, match=r"^training: 2 batches were given, 6 are needed$"):
        train(fresh(), batches(2), SHORT)
    with pytest.raises(LotteryError, match=r"^mask of nowhere: given \(2,\); the model has no such layer$"):
        train(fresh(), batches(), SHORT, masks={"nowhere": torch.ones(2, dtype=torch.bool)})


def test_a_loss_that_is_not_finite_is_infinite():
    model = fresh()
    model.get_input_embeddings().weight.data.fill_(math.nan)
    assert held_out_loss(model, torch.ones(3, 8, dtype=torch.int64)) == math.inf


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_are_those_of_the_study_nested_and_leave_the_model_as_it_is(scope):
    model = fresh()
    before = [p.detach().clone() for p in model.parameters()]
    first, second = mask_of(model, 0.36, scope), mask_of(model, 0.6, scope)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert all((first[name] | ~second[name]).all() for name in first)
    prune(model, Variant({"layer": "magnitude", "global": "magnitude-global"}[scope], "uniform", "unstructured", 0.6))
    assert all(torch.equal(layer.weight != 0, second[name]) for name, layer in prunable(model).items())


def test_a_level_that_prunes_a_layer_to_nothing_is_refused():
    model = fresh()
    layer = next(iter(prunable(model).values()))
    layer.weight.data.mul_(1e-6)
    with pytest.raises(LotteryError, match=r"^a sparsity of 0.9 leaves nothing of model\.layers\.0\.self_attn\.q_proj; take fewer levels"):
        mask_of(model, 0.9, "global")


def test_controls_keep_what_they_say_and_nothing_else():
    masks = mask_of(fresh(), 0.8, "global")
    drawn, shuffled = random_mask(masks, 1), shuffled_mask(masks, 1)
    for name, mask in masks.items():
        assert int(drawn[name].sum()) == int(shuffled[name].sum()) == int(mask.sum())
        assert not torch.equal(drawn[name], mask)
        assert not torch.equal(shuffled[name], mask)
        for dimension in (0, 1):
            assert torch.equal(shuffled[name].sum(dimension).sort().values, mask.sum(dimension).sort().values)
    assert all(torch.equal(random_mask(masks, 1)[name], drawn[name]) for name in masks)
    assert any(not torch.equal(random_mask(masks, 2)[name], drawn[name]) for name in masks)


def test_rounds_take_a_share_of_what_is_left():
    assert [round(sparsity_of(level, 0.2), 4) for level in range(4)] == [0, 0.2, 0.36, 0.488]


def test_no_two_draws_share_their_numbers_nor_those_of_an_initialisation():
    wanted = [(what, seed, layer) for what in ("random mask", "shuffled mask") for seed in range(5) for layer in ("a", "b")]
    seeds = {_draw(*one).initial_seed() for one in wanted}
    assert len(seeds) == len(wanted)
    assert not seeds & set(range(1000))
