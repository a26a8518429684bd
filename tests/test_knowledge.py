"""Tasks of lm-evaluation-harness, and its figures beside ours. What needs the harness has a job of its own: make test-tasks."""

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from lottery.common.errors import ParamsError
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import validated
from lottery.data.corpus import Corpus, corpus, windows
from lottery.evaluation import lm_eval_tasks
from lottery.evaluation.evaluate import evaluate
from lottery.evaluation.metrics import scores, window_sums
from lottery.experiments.records import requests
from lottery.experiments.study import Study
from lottery.experiments.trials import Trials
from lottery.models import loading
from lottery.models.blocks import count_zeros
from lottery.models.checkpoints import Checkpoint
from lottery.report import tables
from tests.conftest import TOY, need_data
from tests.factory import record_of

ENDINGS = "doc_to_text: '{{start}}'\ndoc_to_choice: '{{ends}}'\ndoc_to_target: '{{right}}'\noutput_type: multiple_choice\n"


@pytest.fixture
def endings(project):
    """A task of our own: which ends a story, its last sentence or the same words in another order?"""
    rows = []
    told = corpus("stories").rows[:24]
    for index, story in enumerate(told):
        start, _, end = story.strip().rpartition(". ")
        other = " ".join(random.Random(index).sample(words := end.split(), len(words)))
        rows.append({"start": start + ".", "ends": [end, other] if index % 2 else [other, end], "right": index % 2 ^ 1})
    (project / "endings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = {
        "task": "endings",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(project / "endings.jsonl")}},
        "test_split": "test",
    }
    (project / "endings.yaml").write_text(yaml.safe_dump(where) + ENDINGS + "metric_list:\n  - metric: acc\n")
    return project / "endings.yaml"


def loaded(source):
    return loading.load(source, loading.Plan(torch.device("cpu"), torch.float32, "")), loading.tokenizer(source)


def test_a_file_is_known_by_what_it_says(project):
    path = project / "mine.yaml"
    path.write_text("task: mine\n")
    first = lm_eval_tasks.identities(["arc_easy", "mine.yaml"])
    path.write_text("task: mine\nnum_fewshot: 1\n")
    second = lm_eval_tasks.identities(["arc_easy", "mine.yaml"])
    assert first[0] == second[0] == "arc_easy"
    assert first[1].startswith("mine.yaml@")
    assert first[1] != second[1]
    with pytest.raises(
        ParamsError, match=r"tasks: given 'gone.yaml'; allowed: names of lm-evaluation-harness, or .yaml files \(looked for .*/gone.yaml\)"
    ):
        lm_eval_tasks.identities(["gone.yaml"])


def test_other_tasks_are_another_request(project):
    keys = {requests(validated({**TOY, "tasks": tasks}), "c", "t")[0].key for tasks in ([], ["arc_easy"], ["arc_easy", "hellaswag"])}
    assert len(keys) == 3


def test_a_task_more_runs_that_task_only(toy, monkeypatch):
    """The same zeros as before, and nothing else is measured again."""
    asked, measured, real = [], [], Trials._run

    def scores(model, tokenizer, tasks, batch_size):
        asked.append((tuple(tasks), round(count_zeros(model).prunable, 3)))
        return {task: {"acc": 0.5} for task in tasks}

    monkeypatch.setattr(lm_eval_tasks, "check", lambda tasks: None)
    monkeypatch.setattr(lm_eval_tasks, "scores", scores)
    monkeypatch.setattr(Trials, "_run", lambda self, *given: (measured.append(given[0].sparsity), real(self, *given))[1])
    first = Study(validated({**toy, "tasks": ["one"]}))
    first.sweep()
    assert asked == [(("one",), 0.0), (("one",), 0.5), (("one",), 0.9)]
    more = Study(validated({**toy, "tasks": ["one", "two"]}))
    more.sweep()
    assert asked[3:] == [(("two",), 0.0), (("two",), 0.5), (("two",), 0.9)]
    assert measured == [0.0, 0.5, 0.9]
    for before, after in zip(first.records, more.records, strict=True):
        assert after.result.tasks == {"one": {"acc": 0.5}, "two": {"acc": 0.5}}
        assert after.result.model_copy(update={"tasks": before.result.tasks}) == before.result
        assert (after.provenance, len(after.added)) == (before.provenance, 1)
    for tasks in (["two", "one"], ["two"], []):  # in another order, and fewer
        again = Study(validated({**toy, "tasks": tasks}))
        again.sweep()
        assert [record.result.tasks for record in again.records] == [record.result.tasks for record in more.records], "nothing is lost"
        assert [len(record.added) for record in again.records] == [1, 1, 1]
    assert len(asked) == 6
    assert measured == [0.0, 0.5, 0.9]


def test_without_the_harness_one_line_says_how_to_get_it(toy, monkeypatch):
    monkeypatch.setattr(lm_eval_tasks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ParamsError, match=r"tasks: given \['arc_easy'\], but lm_eval is not installed; install it: make .venv/tasks, or remove tasks"
    ):
        Study(validated({**toy, "tasks": ["arc_easy"]}))


def test_a_study_without_tasks_imports_nothing_of_the_harness(project):
    program = (
        "import sys; from lottery.config.profile import validated; from lottery.experiments.study import Study; import json\n"
        "study = Study(validated(json.loads(sys.argv[1]))); study.measure_dense()\n"
        "assert study.records and not study.records[0].result.tasks\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('lm_eval', 'evaluate', 'sklearn')]"
    )
    subprocess.run([sys.executable, "-c", program, json.dumps(TOY)], cwd=project, check=True)


def test_what_a_variant_knows_stands_below_its_five_columns():
    record = record_of("m", "dense", 0.0)
    assert "arc" not in tables.trials([record]).data
    record.result.tasks = {
        "arc_easy": {"acc": 0.613, "acc_stderr": 0.0123},
        "gsm8k": {"exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": 0.25},
    }
    assert "arc_easy: acc" in tables.trials([record]).data
    expected = ["0.613\u00a0±\u00a00.0123", "0.500\u00a0±\u00a00.250"]
    other = record_of("m", "magnitude", 0.5)
    other.result.tasks = dict(reversed(record.result.tasks.items()))
    lacking = record_of("m", "magnitude", 0.7)
    lacking.result.tasks = {"gsm8k": record.result.tasks["gsm8k"]}
    rows = tables.trials([record, other, lacking]).data.split("\n\n")[-2].splitlines()[2:]
    cells = [[cell.strip() for cell in row.split("|")[1:4]] for row in rows]
    assert cells == [["dense", *expected], ["magnitude\u00a050%", *expected], ["magnitude\u00a070%", "", expected[1]]]


@pytest.mark.tasks
def test_an_unknown_task_is_named_with_those_that_are_close(toy):
    with pytest.raises(
        ParamsError, match=r"tasks: given 'arc_esy'; allowed: a task of lm-evaluation-harness \(arc_easy.*\), or a .yaml file"
    ):
        Study(validated({**toy, "tasks": ["arc_esy"]}))


@pytest.mark.tasks
def test_a_pruned_model_is_asked_as_it_stands(toy, endings):
    """The dense stand-in knows how its stories end, one without most of its weights does not; the record holds what the harness says."""
    study = Study(validated({**toy, "tasks": [str(endings)], "sparsities": [0.95]}))
    study.sweep()
    dense, broken = (record.result.tasks["endings"] for record in study.records)
    assert dense["acc"] >= 0.9
    assert broken["acc"] < dense["acc"] - 0.2
    assert dense["acc_stderr"] == pytest.approx(math.sqrt(dense["acc"] * (1 - dense["acc"]) / 23), rel=1e-6)
    assert study.records[0].request.tasks[0].startswith("endings.yaml@")
    assert "endings: acc" in tables.trials(study.records).data


@pytest.mark.tasks
def test_tasks_change_nothing_that_was_measured_without_them(toy, endings):
    plain, asked = Study(validated(toy)), Study(validated({**toy, "profile": "asked", "tasks": [str(endings)]}))
    for study in (plain, asked):
        study.sweep()
    for one, other in zip(plain.records, asked.records, strict=True):
        assert one.result.window_nll == other.result.window_nll
        assert one.result.texts == other.result.texts


@pytest.mark.tasks
@pytest.mark.parametrize("name", ["mistral-7b", "qwen2.5-7b", "phi-2"])
def test_bits_per_byte_and_word_perplexity_are_those_of_the_harness(project, name):
    """Whole stories as documents: it puts its prefix token in front of each, we do the same, and both score all of the rest."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, tokenizer = loaded(checkpoint(validated({**TOY, "checkpoints": {name: f"stand-in:{name}"}, "model": name})))
    stories = [story.strip() for story in corpus("stories").rows[:20]]
    (project / "stories.jsonl").write_text("".join(json.dumps({"page": story}) + "\n" for story in stories))
    task = {
        "task": "rolling", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(project / "stories.jsonl")}}, "test_split": "test",
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{page}}", "metric_list": [{"metric": m} for m in ("word_perplexity", "bits_per_byte")],
    }  # fmt: skip
    harness = HFLM(pretrained=model, tokenizer=loaded_tokenizer(name), batch_size=4)
    theirs = lm_eval.simple_evaluate(harness, tasks=[task], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0)["results"][
        "rolling"
    ]

    prefix = tokenizer.decode([harness.prefix_token_id])
    nll, scored_bytes, scored_words = [], [], []
    for story in stories:
        text = Corpus("story", (prefix + story,))
        count = len(tokenizer(text.text, verbose=False).input_ids)
        cut = windows(tokenizer, text, count)
        assert cut.tokens[0, 0] == harness.prefix_token_id
        nll.append(float(evaluate(model, cut.tokens)[0].nll))
        scored_bytes.append(len(story.encode()))
        assert cut.scored_bytes.tolist() == scored_bytes[-1:]
        scored_words.append(len(story.split()))
    ours = scores(window_sums(nll, np.zeros(20), np.ones(20), scored_bytes, scored_words, 1))
    assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte,none"], rel=1e-5)
    assert ours["word_perplexity"] == pytest.approx(theirs["word_perplexity,none"], rel=1e-4)


def loaded_tokenizer(name):
    return loading.tokenizer(checkpoint(validated({**TOY, "checkpoints": {name: f"stand-in:{name}"}, "model": name})))


@pytest.mark.tasks
def test_on_wikitext_the_harness_differs_by_no_more_than_its_windows(project):
    """Its windows overlap by one token, so that it scores the first token of each too: half a per cent, not more."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    source = Checkpoint("stories260k", "folder", str(need_data() / "stories260K"))
    model, tokenizer = loaded(source)
    text = Corpus("wikitext", ("".join(corpus(str(need_data() / "wikitext-2-raw" / "wiki.test.raw")).text[:200_000]),))
    cut = windows(tokenizer, text, 512)
    scored = evaluate(model, cut.tokens, 8)[0]
    ours = scores(window_sums(*scored, cut.scored_bytes, cut.scored_words, 511))
    (project / "page.jsonl").write_text(json.dumps({"page": text.text}) + "\n")
    task = {
        "task": "rolling", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(project / "page.jsonl")}}, "test_split": "test",
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{page}}", "metric_list": [{"metric": m} for m in ("word_perplexity", "bits_per_byte")],
    }  # fmt: skip
    harness = HFLM(pretrained=model, tokenizer=loading.tokenizer(source), batch_size=8, max_length=511)
    theirs = lm_eval.simple_evaluate(harness, tasks=[task], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0)["results"][
        "rolling"
    ]
    assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte,none"], rel=5e-3)
