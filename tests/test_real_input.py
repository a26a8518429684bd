"""The real path on a real trained model and real text: a local folder, a local file, windows of 512."""

import papermill
import pytest
import torch

from benchmarks.real_model import perplexity
from lottery.config.profile import load_profile
from lottery.experiments.records import Record, read_state
from lottery.pruning.variants import Variant
from tests.conftest import need_data

# A plain loop over transformers' own loss, in float32, on windows of 512: what each text must give.
WORDS = {"stories.jsonl": "tinystories/stories.jsonl", "wiki.test.raw": "wikitext-2-raw/wiki.test.raw"}


@pytest.mark.parametrize("text", WORDS)
def test_a_notebook_on_stories260k(project, text):
    data = need_data()
    given = {
        **load_profile("demo").model_dump(exclude_none=True), "profile": "real", "model": str(data / "stories260K"), "text": str(data / WORDS[text]), "seq_len": 512, "max_windows": 20, "batch_size": 4,
        "sparsities": [0.5, 0.9], "new_tokens": 20, "repeats": 2,
    }  # fmt: skip
    papermill.execute_notebook("notebooks/smollm2-1.7b.ipynb", "out.ipynb", given, progress_bar=False, cwd=str(project))
    (folder,) = (project / "outputs" / "real").glob("stories260k-*")  # and a hash of where it lies
    assert read_state(folder).state == "finished"
    records = {r.request.sparsity: r for r in (Record.model_validate_json(p.read_text()) for p in (folder / "records").glob("*.json"))}
    dense = records[0.0].result
    assert dense.parameters == 260_032
    assert dense.perplexity == pytest.approx(plain_perplexity(data / "stories260K", data / WORDS[text]), rel=1e-4)
    assert dense.perplexity < records[0.5].result.perplexity < records[0.9].result.perplexity
    if text == "stories.jsonl":
        assert dense.perplexity < 5
        assert dense.texts.verdict.verdict == "coherent"


def plain_perplexity(folder, path) -> float:
    """The first 20 windows of 512 tokens, scored by transformers alone."""
    import json
    import math

    from transformers import AutoModelForCausalLM, AutoTokenizer

    content = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        rows = [json.loads(line)["text"] for line in content.splitlines()]
    else:
        rows = [line if line.strip() else "" for line in content.splitlines(keepends=True)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.tensor(AutoTokenizer.from_pretrained(folder)("\n\n".join(rows)).input_ids)
    losses = []
    for start in range(0, 20 * 512, 512):
        window = tokens[start : start + 512][None]
        with torch.no_grad():
            losses.append(model(input_ids=window, labels=window).loss.item())
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_on_a_real_model_the_methods_come_in_the_order_that_the_field_reports(sparsity):
    need_data()
    random, magnitude, wanda, sparsegpt = (
        perplexity(Variant(method, "uniform", "unstructured", sparsity), torch.device("cpu"), max_windows=24)
        for method in ("random", "magnitude", "wanda", "sparsegpt")
    )
    assert random > 10 * magnitude
    assert magnitude > wanda > sparsegpt
