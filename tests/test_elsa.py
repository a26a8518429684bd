"""ELSA against a plain transcription of the paper's equations, and what retraining promises whatever moves the zeros."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from lottery.models.blocks import prunable
from lottery.models.standins.architectures import ARCHITECTURES
from lottery.pruning import selection
from lottery.pruning.pattern import Pattern
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant
from lottery.training import elsa
from lottery.training.recovery import recover
from lottery.training.trainer import Schedule, rate

STEPS, BATCH, RATE = 70, 2, 5e-3


def tiny(sparsity=0.0, method="magnitude", pattern="unstructured", dtype=torch.float32):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(ARCHITECTURES["qwen2.5-0.5b"]), dtype=dtype).eval()
    if sparsity:
        prune(model, Variant(method, "uniform", pattern, sparsity))
    return model


def samples(steps=STEPS, length=16):
    return torch.randint(1, 200, (steps * BATCH, length), generator=torch.Generator().manual_seed(1))


def weights(model):
    return {name: layer.weight.detach() for name, layer in prunable(model).items()}


def kept_largest(values, score, kept):
    """Plainly: all but the ``kept`` largest scores become zero."""
    found = torch.zeros_like(values).flatten()
    best = score.flatten().topk(kept).indices
    found[best] = values.flatten()[best]
    return found.view_as(values)


def plain_elsa(model, tokens, kept, weighted):
    """The equations as they stand: z = Proj(w), u = 0; gradient, clipped, plus λ(w − z + u); AdamW; every 32 steps z and u; w = Proj(w)."""
    layers = prunable(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    matrices = [layer.weight.requires_grad_(True) for layer in layers.values()]
    optimizer = torch.optim.AdamW(matrices, weight_decay=0.0, betas=(0.9, 0.95))

    def projected(i, values):
        v = optimizer.state[matrices[i]].get("exp_avg_sq") if weighted else None
        return kept_largest(values, values.abs() if v is None else v * values**2, kept[i])

    with torch.no_grad():
        z = [projected(i, w.clone()) for i, w in enumerate(matrices)]
        u = [torch.zeros_like(w) for w in matrices]
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, Schedule(STEPS, BATCH, RATE))
        batch = tokens[step * BATCH : (step + 1) * BATCH]
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(matrices, 1.0)
        with torch.no_grad():
            for i, w in enumerate(matrices):
                w.grad += 0.01 * (w - z[i] + u[i])
        optimizer.step()
        if (step + 1) % 32 == 0:
            with torch.no_grad():
                for i, w in enumerate(matrices):
                    z[i] = projected(i, w + u[i])
                    u[i] += w - z[i]
    with torch.no_grad():
        return {name: projected(i, w) for i, (name, w) in enumerate(zip(layers, matrices, strict=True))}


@pytest.mark.parametrize(("how", "weighted"), [("elsa", True), ("elsa-identity", False)])
def test_it_is_what_the_paper_says(how, weighted, monkeypatch):
    monkeypatch.setattr(selection, "_CHUNK", {"cpu": 500})  # a layer is projected in several steps, as large ones are
    plain, ours, tokens = tiny(), tiny(), samples()
    kept = [layer.weight.numel() - round(0.7 * layer.weight.numel()) for layer in prunable(plain).values()]
    wanted = plain_elsa(plain.train(), tokens, kept, weighted)
    recover(ours, tokens, BATCH, RATE, how, sparsity=0.7)
    found = weights(ours)
    same = sum(int(((wanted[name] != 0) == (found[name] != 0)).sum()) for name in wanted) / sum(w.numel() for w in wanted.values())
    assert same > 0.999, "the last bits of a sum may move a weight at the threshold"
    for name, values in wanted.items():
        both = (values != 0) & (found[name] != 0)
        assert torch.allclose(values[both], found[name][both], rtol=0.02, atol=2e-4), name


def test_the_two_projections_are_not_the_same():
    masks = []
    for how in ("elsa", "elsa-identity"):
        model = tiny()
        recover(model, samples(), BATCH, RATE, how, sparsity=0.7)
        masks.append(torch.cat([(w != 0).flatten() for w in weights(model).values()]))
    assert 0.002 < (masks[0] != masks[1]).float().mean() < 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_ends_with_exactly_the_asked_zeros_and_touches_nothing_else(dtype):
    model = tiny(dtype=dtype)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    recover(model, samples(40), BATCH, RATE, "elsa", sparsity=0.9)
    layers = {f"{name}.weight" for name in prunable(model)}
    for name, parameter in model.named_parameters():
        assert parameter.dtype == dtype
        assert parameter.requires_grad
        assert parameter.grad is None
        if name in layers:
            assert int((parameter == 0).sum()) == round(0.9 * parameter.numel()), name
        else:
            assert torch.equal(parameter, before[name]), name
    assert not model.training


def test_from_a_pruned_start_each_layer_keeps_its_number_of_zeros_but_not_their_places():
    model = tiny(0.5, "magnitude-global")
    before = {name: (w == 0) for name, w in weights(model).items()}
    recover(model, samples(), BATCH, 2e-2, "elsa")
    moved = 0
    for name, w in weights(model).items():
        assert int((w == 0).sum()) == int(before[name].sum()), name
        moved += int(((w == 0) != before[name]).sum())
    assert len({int(zeros.sum()) / zeros.numel() for zeros in before.values()}) > 3, "an allocation, to be kept"
    assert moved > 0.01 * sum(zeros.numel() for zeros in before.values())


def test_a_pattern_stays_one():
    model = tiny()
    recover(model, samples(40), BATCH, RATE, "elsa", sparsity=0.5, pattern=Pattern.parse("2:4"))
    assert all((w.view(-1, 4) != 0).sum(1).eq(2).all() for w in weights(model).values())


def test_it_pulls_the_weights_towards_what_it_keeps(monkeypatch):
    """Without the pull the last projection cuts off far more."""

    def cut(penalty):
        monkeypatch.setattr(elsa, "PENALTY", penalty)
        held = {}

        def finish(self):
            held.update({name: w.detach().clone() for name, w in self._weights.items()})
            finish_as_it_is(self)

        monkeypatch.setattr(elsa.Elsa, "finish", finish)
        model = tiny()
        recover(model, samples(160), BATCH, RATE, "elsa-identity", sparsity=0.7)
        after = weights(model)
        return sum(float((held[n] - after[n]).square().sum()) for n in after) / sum(float(held[n].square().sum()) for n in after)

    finish_as_it_is = elsa.Elsa.finish
    assert cut(0.01) < 0.5 * cut(0.0)


def test_a_student_comes_nearer_to_its_teacher_and_the_dense_one_stays():
    teacher, student, tokens = tiny(), tiny(0.7), samples()

    def divergence(model):
        with torch.no_grad():
            p, q = (m(input_ids=tokens[:20]).logits.log_softmax(-1) for m in (teacher, model))
        return float((p.exp() * (p - q)).sum(-1).mean())

    before = divergence(student)
    recover(student, tokens, BATCH, RATE, teacher=tiny())
    assert divergence(student) < 0.8 * before
    assert all(int((w == 0).sum()) == round(0.7 * w.numel()) for w in weights(student).values())
    dense = tiny()
    recover(dense, tokens, BATCH, 1e-4, sparsity=0, teacher=tiny())
    for name, w in weights(dense).items():
        assert torch.equal(w, weights(teacher)[name]), "it has nothing to learn from itself"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dense_control_has_no_mask_although_some_weights_are_zero(dtype):
    model = tiny(dtype=dtype)
    first = next(iter(prunable(model).values())).weight
    first.data[:, 0] = 0
    recover(model, samples(), BATCH, RATE, sparsity=0)
    assert (first[:, 0] != 0).float().mean() > 0.9


def test_in_bfloat16_small_updates_are_not_lost():
    """A hundred updates of a thousandth of a weight each: added in bfloat16 one by one they would all be rounded away."""
    exact, model = tiny(), tiny(dtype=torch.bfloat16)
    exact.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    before = torch.cat([w.flatten().float() for w in weights(model).values()])
    for one in (exact, model):
        recover(one, samples(100), BATCH, 2e-5, sparsity=0)
    wanted, found = (torch.cat([w.flatten().float() for w in weights(one).values()]) - before for one in (exact, model))
    assert torch.corrcoef(torch.stack([wanted, found]))[0, 1] > 0.7
