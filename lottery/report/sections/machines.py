"""Where every number comes from: commit, device, dtype, versions."""

from collections import Counter

from lottery.common.format import commit
from lottery.experiments.records import Record
from lottery.experiments.status import RunStatus
from lottery.report.markdown import code_span, table


def told(models: list[RunStatus], records: list[Record], seed: int) -> list[str]:
    """Return the paragraphs on where and when trials ran, and on what; ``records`` are those of all models."""
    rows = []
    for model in models:
        for where, count in Counter(_where(record) for record in model.records).items():
            own = [record.provenance for record in model.records if _where(record) == where]
            between = f"{min(p.started for p in own):%Y-%m-%d %H:%M} to {max(p.finished for p in own):%Y-%m-%d %H:%M}"
            rows.append({"Model": model.name, "Trials": count, "When": between, **dict(where)})
    versions = "; or ".join(dict.fromkeys(", ".join(f"{k} {v}" for k, v in r.provenance.versions.items()) for r in records))
    reason = "; ".join(dict.fromkeys(f"{r.provenance.dtype}: {r.provenance.dtype_reason}" for r in records))
    texts = ", ".join(sorted({r.request.text_sha256[:16] for r in records}))
    batches = " or ".join(dict.fromkeys(str(r.provenance.batch_size) for r in records))
    return [
        table(rows, "Where and when the trials ran.", "Trials"),
        "Checkpoints:\n\n" + "\n".join(dict.fromkeys(f"- {r.model}: {code_span(r.request.checkpoint)}" for r in records)),
        f"Versions: {versions}. Dtype: {reason}. Windows scored at a time: {batches}. Seed: {seed}. SHA-256 of the text begins"
        f" with {texts}.",
        _memory_plans(records),
        "`tables/trials.csv` beside this report holds the figures of all trials, and each record the whole of one trial with all of this."
        " `make verify` measures a random sample of them again and compares.",
    ]


def _memory_plans(records: list[Record]) -> str:
    plans = dict.fromkeys(f"{r.model}: {r.provenance.memory_reason}" for r in records if r.provenance.memory_plan == "streamed")
    return f"Streamed block by block: {'; '.join(plans)}." if plans else "Every model was in memory as a whole."


def _where(record: Record) -> tuple:
    p = record.provenance
    where = {"Device": p.device, "Threads": p.threads, "Dtype": p.dtype, "Memory": p.memory_plan, "Commit": commit(p.commit, p.dirty)}
    where["Slurm job"] = p.slurm_job or "none"
    return tuple(where.items())
