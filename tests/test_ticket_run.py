"""Single runs of the ticket procedure: what each arm starts from, what it keeps, and what goes wrong."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lottery.common.errors import LotteryError
from lottery.config.profile import validated
from lottery.experiments.imp import run
from lottery.experiments.imp.arms import CONTROLS, DENSE
from lottery.experiments.imp.records import folder_of, read_ticket, requests
from lottery.models.blocks import prunable
from lottery.models.checkpoints import STAND_INS
from tests.conftest import TOY

NAME = "qwen2.5-0.5b"
SMALL = {
    "models": [NAME], "levels": 2, "prune_fraction": 0.6, "rewind": 2, "steps": 6, "batch_size": 2, "seq_len": 16, "learning_rate": 0.01, "seeds": 1,
}  # fmt: skip


@pytest.fixture
def asked(project):
    def make(**changes):
        return validated({**TOY, "model": None, "tickets": {**SMALL, **changes}})

    return make


def run_all(profile, *arms) -> dict:
    """Makes the runs of a profile in their order, in this process. **Returns** their records by arm and level."""
    wanted = [request for request in requests(profile) if not arms or request.arm in arms]
    found = {(r.arm, r.level): run.run(profile, r) for r in wanted}
    assert all(read_ticket(folder_of(profile), record.request) == record for record in found.values())
    return found


def weights_of(profile):
    return folder_of(profile) / "weights" / requests(profile)[0].lineage


@pytest.fixture
def starts(monkeypatch):
    """What training began with, a run each: the weights of the linear layers and of the embedding, the first step, the batches."""
    seen = []

    def spy(model, batches, schedule, *, first=0, masks=None, observe=None):
        listed = list(batches)
        layers = {name: layer.weight.detach().clone() for name, layer in prunable(model).items()}
        seen.append((layers, model.get_input_embeddings().weight.detach().clone(), first, torch.stack(listed), masks))
        return real(model, listed, schedule, first=first, masks=masks, observe=observe)

    real = run.train
    monkeypatch.setattr(run, "train", spy)
    return seen


def test_what_the_learning_rate_is_chosen_on_is_never_trained_on(asked):
    made = run.architecture(asked().model_dump_json(), NAME)
    whole = made._training_windows.reshape(-1)
    assert len(made.validation) == 48
    assert torch.equal(torch.cat([made.tokens, made.validation.reshape(-1)]), whole)
    assert not torch.equal(made.held_out, made.validation)


def test_each_arm_begins_where_it_says(asked, starts):
    profile = asked()
    found = run_all(profile)
    trained = [key for key in found if key[0] != "pruned"]
    assert trained == [
        ("dense", 0), ("dense rewound", 0), ("ticket", 1), ("new weights", 1), ("random mask", 1), ("shuffled mask", 1),
        ("ticket", 2), ("one-shot", 2), ("new weights", 2), ("random mask", 2), ("shuffled mask", 2),
    ]  # fmt: skip
    begun = dict(zip(trained, starts, strict=True))
    rewind = load_file(weights_of(profile) / "rewind.safetensors")
    masks = {level: load_file(weights_of(profile) / f"mask-{level}.safetensors") for level in (1, 2)}
    initial = begun["dense", 0]
    for (arm, level), (layers, embedding, first, batches, mask) in begun.items():
        rewound = arm not in ("dense", "new weights")
        assert first == (2 if rewound else 0)
        assert torch.equal(batches, initial[3][first:]), "the same windows for all arms"
        assert torch.equal(embedding, rewind["model.embed_tokens.weight"]) == rewound
        for name, weight in layers.items():
            assert torch.equal(weight, rewind[f"{name}.weight"]) == rewound
        if arm in ("ticket", "new weights"):
            assert all(torch.equal(mask[name], masks[level][name]) for name in mask)
        elif arm not in DENSE:
            assert any(not torch.equal(mask[name], masks[level][name]) for name in mask)
    assert not torch.equal(begun["new weights", 1][1], initial[1]), "another initialisation"
    assert all((masks[1][name] | ~masks[2][name]).all() for name in masks[1]), "nested"


def test_no_pruned_weight_ever_moved_and_shares_are_those_asked_for(asked):
    found = run_all(asked())
    for (arm, level), record in found.items():
        assert record.result.moved == 0
        assert record.result.problem == ""
        if arm in DENSE:
            assert record.result.sparsity_layers == {}
            continue
        layers = run.architecture(asked().model_dump_json(), NAME).layers
        kept = sum(round((1 - share) * layers[name]) for name, share in record.result.sparsity_layers.items())
        assert 1 - kept / sum(layers.values()) == pytest.approx(1 - 0.4**level, abs=1e-4)
        if arm == "random mask" or arm in CONTROLS:
            assert record.result.sparsity_layers == pytest.approx(found["ticket", level].result.sparsity_layers)


def test_a_run_is_the_same_to_the_last_bit_when_it_is_made_again(asked, tmp_path):
    first = run_all(asked(), "dense", "ticket")
    shutil.rmtree(folder_of(asked()))
    second = run_all(asked(), "dense", "ticket")
    assert [r.result.curve for r in first.values()] == [r.result.curve for r in second.values()]


def test_a_ticket_that_keeps_all_weights_is_the_dense_model_rewound_to_the_bit(asked, monkeypatch):
    """Both go the same way, so that nothing but the mask lies between them."""
    whole = lambda model, *_: {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in prunable(model).items()}  # noqa: E731
    monkeypatch.setattr(run, "mask_of", whole)
    found = run_all(asked(), *DENSE, "ticket")
    assert found["ticket", 1].result.curve == found["dense rewound", 0].result.curve
    assert found["ticket", 1].result.curve != found["dense", 0].result.curve


def test_the_initialisation_is_step_0(asked):
    profile = asked(rewind=0)
    run_all(profile, "dense")
    made = run.architecture(profile.model_dump_json(), NAME).new_model(0)
    kept = load_file(weights_of(profile) / "rewind.safetensors")
    assert all(torch.equal(parameter, kept[name]) for name, parameter in made.named_parameters())


def test_the_pruned_arm_is_the_dense_model_with_holes_and_not_trained(asked, starts):
    profile = asked()
    found = run_all(profile, "dense", "pruned")
    assert len(starts) == 1
    assert len(found["pruned", 1].result.curve) == 1
    assert found["pruned", 2].result.loss != found["dense", 0].result.loss


def test_a_diverged_run_is_recorded_and_what_follows_from_it_is_named(asked):
    found = run_all(asked(learning_rate=1e30))
    assert found["dense", 0].result.loss == math.inf
    assert found["dense", 0].result.problem.startswith("diverged: the loss is not finite after ")
    assert found["dense", 0].result.curve[-1].step < 6, "ended early"
    assert all(record.result.problem == found["dense", 0].result.problem for record in found.values())


def test_a_layer_that_is_left_with_nothing_is_recorded_where_only_the_run_can_know(asked, monkeypatch):
    real = run.mask_of

    def none_left(model, sparsity, scope):
        if sparsity > 0.7:
            raise LotteryError("a sparsity of 0.84 leaves nothing of a layer")
        return real(model, sparsity, scope)

    monkeypatch.setattr(run, "mask_of", none_left)
    found = run_all(asked())
    assert found["ticket", 1].result.problem == ""
    assert "leaves nothing" in found["ticket", 1].result.no_next
    for arm in ("ticket", "one-shot", "pruned", *CONTROLS):
        assert "leaves nothing" in found[arm, 2].result.problem
        assert found[arm, 2].result.loss == math.inf


def test_a_level_that_leaves_nothing_of_a_layer_is_refused_before_any_training(asked):
    with pytest.raises(
        LotteryError,
        match=r"^tickets\['levels'\]: given 20 with a prune_fraction of 0.6; level \d+ leaves nothing of .*_proj of qwen2.5-0.5b, which",
    ):
        run.check(asked(levels=20, scope="layer"))
    assert run.check(asked()) == {NAME: 433_956}


def test_a_window_beyond_the_context_is_refused(asked):
    with pytest.raises(LotteryError, match=r"^tickets\['seq_len'\]: given 4096 tokens; qwen2.5-0.5b was made for at most 512$"):
        run.check(asked(seq_len=4096))


def test_a_training_text_of_one_window_is_refused(asked, tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("Once upon a time there was a boy who had a dog. " * 3)
    made = run.Architecture(asked(train_text=str(text), seq_len=32), NAME)
    with pytest.raises(
        LotteryError, match=r"^tickets\['train_text'\]: given '.*short\.txt', one window of 32 tokens, and one is kept back; give a"
    ):
        made.tokens  # noqa: B018 - what a run asks for first


def test_a_configuration_and_a_tokenizer_are_enough(asked, tmp_path):
    """Of a folder on disk only the shape and the tokens are used; this one has no weights at all."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in (STAND_INS / "phi-2").iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    tickets = {**SMALL, "models": ["mine"], "levels": 1}
    profile = validated({**TOY, "model": None, "checkpoints": {"mine": str(folder)}, "tickets": tickets})
    found = run_all(profile)
    assert found["ticket", 1].result.problem == ""
    assert {name.split(".")[2] for name in found["ticket", 1].result.sparsity_layers} == {"0"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_on_a_gpu_it_is_the_same_procedure(asked):
    here = run_all(asked().model_copy(update={"device": "cuda"}))
    there = run_all(asked().model_copy(update={"device": "cpu"}))
    for key, record in here.items():
        assert record.result.moved == 0
        assert record.result.loss == pytest.approx(there[key].result.loss, rel=0.02)
