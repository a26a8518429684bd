"""Texts of real and small models, dense and pruned, each read and labelled, beside the verdicts of ``lottery.evaluation.coherence``.

``python -m benchmarks.coherence draw`` draws the texts again (both real models must be in the cache, ``make fetch PROFILE=real-models``,
and C4, TinyStories and stories260K in ``../shared/data``; about half an hour on two cores) and keeps the labels of those that did not
change. ``python -m benchmarks.coherence`` compares verdicts with labels and writes ``docs/coherence.md``.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from lottery.common.files import atomic_write
from lottery.evaluation import coherence
from lottery.report.markdown import table

HERE = Path(__file__).parent
LABELS = HERE / "coherence.csv"
PAGE = HERE.parent / "docs" / "coherence.md"
DATA = HERE.parents[1] / "shared" / "data"

TUNED = ["smollm2-135m-q4", "mistral-7b", "qwen2.5-7b", "smollm2-1.7b", "phi-2"]  # the rule's limits were set on these
TEN, FOUR = [s / 10 for s in range(10)], [0.0, 0.5, 0.7, 0.9]
DRAWN, WORDS, TOKENS, TEMPERATURE = 6, 30, 50, 0.7
_LETTERS = "cdb"  # coherent, degraded, broken


def draw() -> pd.DataFrame:
    """Six drawn continuations of every variant, and a greedy one of the real models', with the dense model's bits for each."""
    from lottery.config.checkpoint import checkpoint
    from lottery.config.profile import load_profile
    from lottery.data.calibration import calibration
    from lottery.data.corpus import corpus, prompts
    from lottery.evaluation import generation
    from lottery.models import loading
    from lottery.models.checkpoints import Checkpoint
    from lottery.pruning.prune import prune
    from lottery.pruning.variants import Variant

    real = load_profile("real-models")
    wiki, c4 = "wikitext-2-raw", str(DATA / "c4" / "calibration.jsonl")
    studied = [
        (checkpoint(real.with_model(name)), wiki, c4, [("magnitude", TEN), ("wanda", sparsities)])
        for name, sparsities in [("smollm2-135m-q4", [0.5, 0.6, 0.7, 0.8]), ("qwen2.5-coder-0.5b-q4", [0.5, 0.6, 0.7])]
    ]
    tiny, stories = Checkpoint("stories260k", "folder", str(DATA / "stories260K")), str(DATA / "tinystories" / "stories.jsonl")
    studied.append((tiny, stories, "training-stories", [("magnitude", TEN), ("sparsegpt", [0.5, 0.7, 0.9])]))
    for name, sparsities in [("mistral-7b", TEN), ("qwen2.5-0.5b", TEN), ("qwen2.5-7b", FOUR), ("smollm2-1.7b", FOUR), ("phi-2", FOUR)]:
        studied.append((Checkpoint(name, "stand-in", name), "stories", "training-stories", [("magnitude", sparsities)]))
    rows, plan = [], loading.Plan(torch.device("cpu"), torch.float32, "a CPU")
    for model, text, calibrated_on, ways in studied:
        tokenizer, dense, starts = loading.tokenizer(model), loading.load(model, plan), prompts(corpus(text), DRAWN, WORDS)
        stretches = coherence.yardsticks(corpus(text).text, WORDS)
        yards = [generation.bits_per_byte(dense, tokenizer, pairs) for pairs in stretches]
        for method, sparsity in [(method, sparsity) for method, sparsities in ways for sparsity in sparsities]:
            pruned = loading.load(model, plan)
            samples = None if method == "magnitude" else calibration(tokenizer, corpus(calibrated_on), 16, 512, 0).tokens
            if sparsity:
                prune(pruned, Variant(method, "uniform", "unstructured", sparsity), samples)
            written = [("drawn", i, c) for i, c in enumerate(generation.continuations(pruned, tokenizer, starts, TOKENS, TEMPERATURE))]
            if text == wiki:
                written += [("greedy", 0, c) for c in generation.continuations(pruned, tokenizer, starts[:1], TOKENS)]
            for how, index, c in written:
                bits = round(generation.bits(dense, c.beginning, c.tokens), 1)
                label = method if sparsity else "dense"
                rows.append(
                    (model.name, label, sparsity, how, index, index, c.text, bits, len(c.text.encode()), *(round(y, 4) for y in yards))
                )
            print(f"{model.name} {method} {sparsity}", flush=True)
    columns = ["model", "method", "sparsity", "how", "prompt", "seed", "text", "bits", "bytes", "real", "shuffled"]
    return pd.DataFrame(rows, columns=columns)


def read() -> pd.DataFrame:
    """The labelled texts: a row a text, ``label`` and, of some, ``again``, a second one given
    later without sight of the first, and ``other_reader``, that of another reader."""
    return pd.read_csv(LABELS, keep_default_na=False)


def compared(data: pd.DataFrame) -> pd.DataFrame:
    """A row a variant: the reader's label of its drawn texts together (their middle one, of two middle ones the worse), and the verdict."""
    drawn = data[data["how"] == "drawn"]
    rows = []
    dense = {model: own for model, own in drawn[drawn["method"] == "dense"].groupby("model")}  # noqa: C416
    for (model, method, sparsity), texts in drawn.groupby(["model", "method", "sparsity"], sort=False):
        found = coherence.verdict(_costs(texts), _costs(dense[model]), texts["real"].iloc[0], texts["shuffled"].iloc[0])
        ranks = sorted(_LETTERS.index(letter) for letter in texts["label"])
        label = coherence.VERDICTS[ranks[len(ranks) // 2]]
        rows.append((model, method, sparsity, "".join(texts["label"]), label, found.verdict, found.surprise, found.said))
    return pd.DataFrame(rows, columns=["model", "method", "sparsity", "labels", "label", "verdict", "surprise", "said"])


def _costs(texts: pd.DataFrame) -> coherence.Costs:
    return list(texts[["text", "bits"]].itertuples(index=False, name=None))


def confusion(variants: pd.DataFrame) -> str:
    """How often each verdict meets each label, as a table."""
    counts = pd.crosstab(variants["label"], variants["verdict"]).reindex(
        index=list(coherence.VERDICTS), columns=list(coherence.VERDICTS), fill_value=0
    )
    rows = [
        {"Read as": label, **{f"Verdict {name}": str(counts.loc[label, name]) for name in coherence.VERDICTS}} for label in counts.index
    ]
    return table(rows)


def summary(data: pd.DataFrame) -> str:
    """The page: what was read, how rule and reader agree on models that the rule was set on and on others, and where they do not."""
    variants = compared(data)
    tuned = variants["model"].isin(TUNED)
    twice = data[data["again"] != ""]
    steps = {letter: step for step, letter in enumerate(_LETTERS)}
    columns = twice[["label", "again", "other_reader"]].apply(lambda column: column.map(steps))
    apart = max((columns["label"] - columns[name]).abs().max() for name in ("again", "other_reader"))
    agree = {name: f"{(twice['label'] == twice[name]).mean():.0%}" for name in ("again", "other_reader")}
    parts = [
        "# The verdict of coherence, held against a reader",
        f"{len(data)} continuations of {len(variants)} variants of {data['model'].nunique()} models were read and labelled: *coherent*"
        " (running text; facts may be wrong, a slip is allowed), *degraded* (sentences or parts of them, with broken grammar, made-up"
        " words, loops of whole sentences or stray signs), *broken* (no sentence left: word salad, lists of numbers, loops of a word or"
        " two). A variant's label is the middle one of its six drawn texts, of two middle ones the worse; a study draws twelve"
        " unless its profile says otherwise. Texts, labels, seeds and the dense models' bits are in"
        " [coherence.csv](../benchmarks/coherence.csv); `python -m benchmarks.coherence` makes this page,"
        " `python -m benchmarks.coherence draw` the texts (its docstring says from what).",
        f"{len(twice)} of the texts, drawn at random, were labelled twice more, in another order and without sight of the first labels or"
        f" of what a text came from: an hour later by the same reader ({agree['again']} of the labels are the same), and by another reader"
        f" ({agree['other_reader']}). " + ("No two labels are two steps apart." if apart < 2 else "Some labels are two steps apart."),
        "Greedy texts were labelled too, and are not judged: the dense SmolLM2-135M loops when it is greedy.",
        "Both limits were set on the models named last and not moved since. One thing was changed after qwen2.5-coder-0.5b had been seen:"
        " repeated bytes no longer count. Before, texts that looped whole phrases passed as coherent, because they are easy to predict.",
    ]
    for name, which in [("Models that the limits were not set on", ~tuned), ("Models that the limits were set on", tuned)]:
        chosen = variants[which]
        agreed = (chosen["label"] == chosen["verdict"]).mean()
        parts += [f"## {name}", f"{', '.join(chosen['model'].unique())}: {agreed:.0%} of {len(chosen)} variants.", confusion(chosen)]
    wrong = variants[variants["label"] != variants["verdict"]]
    doubtful = variants[variants["said"] != variants["verdict"]]
    named = [label in said for label, said in zip(variants["label"], variants["said"], strict=True)]
    parts += [
        "## Where the verdict is not sure of itself",
        "Other texts of the same model might be judged otherwise. Where at least one in 20 resampled sets of the texts is, the reports name"
        f" both, as in *degraded, perhaps broken*: here for {len(doubtful)} of {len(variants)} variants. The reader's label is among the"
        f" verdicts named for {sum(named)} of {len(variants)}.",
    ]
    rows = [
        {
            "Variant": f"{row.model}, {row.method} {row.sparsity:.0%}",
            "Six labels": row.labels,
            "Read as": row.label,
            "Verdict": row.said,
            "Surprise": f"{row.surprise:.2f}",
        }
        for row in wrong.itertuples()
    ]
    parts += [
        "## Where they differ",
        "Surprise is where the texts lie between sound text, 0, and words in disorder, 1.",
        table(rows, right="") or "Nowhere.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["draw"], help="draw the texts again; without it, compare")
    if parser.parse_args().what == "draw":
        old, keys, given = read(), ["model", "method", "sparsity", "how", "prompt", "text"], ["label", "again", "other_reader"]
        new = draw().merge(old[[*keys, *given]], on=keys, how="left").fillna(dict.fromkeys(given, ""))
        atomic_write(LABELS, new.to_csv(index=False))
        print(f"{(new['label'] == '').sum()} of {len(new)} texts have no label yet")
    else:
        atomic_write(PAGE, text := summary(read()))
        print(text)


if __name__ == "__main__":
    main()
