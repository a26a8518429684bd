"""The report: what the records of a profile say. It only reads files, and never loads a model."""

from functools import cached_property

import pandas as pd
from IPython.display import Markdown

from lottery.analysis import costs, equal_bytes, findings, layers, sizes
from lottery.analysis.frame import frame
from lottery.analysis.imp.one_shot import rank_agreement
from lottery.analysis.imp.results import ImpResults
from lottery.analysis.least_lost import least_lost
from lottery.analysis.protocols import frame as protocol_frame
from lottery.analysis.published import WIKITEXT, beside, name_of
from lottery.analysis.recovery import recovered
from lottery.common.files import atomic_write
from lottery.common.paths import outputs
from lottery.config.profile import WINNING_TICKET, Profile
from lottery.experiments.records import Record
from lottery.experiments.status import RunStatus, run_status
from lottery.experiments.threshold import FINE
from lottery.models.checkpoints import shown
from lottery.report import figures, tables
from lottery.report.markdown import Picture, escape_markdown, markdown
from lottery.report.notebook import profile_of_this_notebook
from lottery.report.sections import imp, imp_figures, machines, method, one_shot_vs_imp, protocols, pruning, published, savings, size, zeros
from lottery.report.sections import recovery as retraining
from lottery.report.sentences import paragraphs, sentences


class Report:
    def __init__(self, profile: Profile):
        self.profile = profile
        self.folder = outputs(profile.profile)
        self.models = [run_status(profile, name) for name in profile.checkpoints]

    @classmethod
    def from_notebook(cls) -> "Report":
        """Return the report on the profile that this notebook's parameters name."""
        return cls(profile_of_this_notebook())

    @cached_property
    def _everything(self) -> list[Record]:
        return [record for model in self.models for record in model.records]

    @cached_property
    def records(self) -> list[Record]:
        """What is dense or pruned. What is rounded or retrained besides is shown in sections of its own."""
        return [record for record in self._everything if not record.request.variant.changed]

    @cached_property
    def _by_bytes(self) -> pd.DataFrame:
        """What bytes are compared of: everything at the sparsities that the profile names, and what was rounded."""
        rounded = [record for record in self._everything if record.request.bits or record.request.method == "dense"]
        data = frame(rounded)
        return pd.concat([self._named, data[data["bits"].notna()]], ignore_index=True)

    @cached_property
    def procedure(self) -> RunStatus | None:
        """The lottery ticket procedure, where it is asked for."""
        return run_status(self.profile, WINNING_TICKET) if self.profile.tickets else None

    @cached_property
    def data(self) -> pd.DataFrame:
        return frame(self.records)

    @cached_property
    def _named(self) -> pd.DataFrame:
        """What was measured at the sparsities that the profile names: a bisection adds others, different ones for each model."""
        return self.data[self.data["sparsity"].isin([variant.sparsity for variant in self.profile.variants])]

    @cached_property
    def main(self) -> pd.DataFrame:
        """What models are compared by: the dense ones, and the first way of pruning."""
        return findings.judged_by(self._named)

    @cached_property
    def _first_way(self) -> str:
        """The way of pruning that models are judged by; empty where nothing was pruned."""
        return next(iter(findings.methods(self.data)), "")

    @cached_property
    def scores(self) -> findings.Scores:
        """The models' ticket scores by that way of pruning, from everything that was measured of it."""
        return findings.scores(self.records, self._first_way)

    @cached_property
    def _best_ticket(self) -> str:
        return sentences("best_ticket", found=findings.best_ticket(self.main, self.scores))

    def _least_lost(self, sparsities: list[float]) -> str:
        return sentences("least_lost", found=least_lost(self._main_records, sparsities))

    @cached_property
    def _agreement(self) -> str:
        """Whether the best ticket depends on how it is looked for."""
        return sentences("agreement", found=findings.agreement(self._named, self.records))

    @cached_property
    def _several(self) -> bool:
        return len(findings.methods(self.data)) > 1

    @cached_property
    def _several_models(self) -> bool:
        return len({record.model for record in self.records}) > 1

    @cached_property
    def _main_records(self) -> dict[str, list[Record]]:
        """The records of what models are compared by, bisections included, of each model that has any."""
        ways = set(self.main["method"])
        found = {model.name: [r for r in model.records if r.request.variant.label in ways] for model in self.models}
        return {name: records for name, records in found.items() if records}

    def answer(self) -> Markdown:
        """Show the first screen: whether these are stand-ins, the answer, and what is missing."""
        mixed = sentences("several_devices", found=costs.on_several_devices(self.data) if self.records else {})
        levels = [level for level in findings.levels(self.main) if level in findings.ASKED]
        answer = f"{self._best_ticket} {self._least_lost(levels)}"
        if self._several:
            # Where there is one model, the question is by which way it loses least.
            asked = self._agreement if self._several_models else " ".join(said for said, _ in self._cliffs.values())
            answer = f"Judged by {self._first_way}: {answer} {asked}"
        return markdown(self.stand_in_notice(), answer, mixed, self._gaps())

    def figure(self) -> Picture | Markdown:
        if not self.records:
            return markdown("*There is nothing to draw: no trial is recorded under this profile.*")
        self._keep_table("trials", self.data)
        return self._keep_figure("bits-over-sparsity", figures.bits_over_sparsity(findings.judged_by(self.data)))

    def methods(self) -> Markdown | None:
        """Show the ways of pruning beside each other, where there are several."""
        if not self._several:
            return None
        said, *parts = pruning.told(self._named, self.records)
        return markdown(
            f"{said} {self._agreement}",
            *parts,
            *pruning.allocations(self.records),
            *(part for said, table in self._cliffs.values() for part in (table, said)),
            "The seconds of pruning are those of a whole model, passes over the calibration data included. What an allocation measures of"
            " the dense model counts once, for the first variant that needs it.",
        )

    @cached_property
    def _cliffs(self) -> dict[str, tuple[str, str]]:
        """Where each way of pruning has its cliff, a sentence and a table a model, if a bisection looked for it."""
        return pruning.cliffs(self._named, self.records) if self.profile.bisect else {}

    def methods_figure(self) -> Picture | None:
        return self._keep_figure("methods", figures.methods_compared(self.data)) if self._several else None

    @cached_property
    def _main_by_bytes(self) -> pd.DataFrame:
        """The same without other ways of pruning than the first."""
        asked = [record.request for record in self._everything]
        keys = [one.key for one in asked if not one.variant.one_shot or one.variant.unchanged.label == self._first_way]
        return self._by_bytes[self._by_bytes["key"].isin(keys)]

    @property
    def _compares_bytes(self) -> bool:
        """Whether there is a question of bytes: who is best at a size takes several models, or rounding beside pruning."""
        return self._several_models or len(self._everything) > len(self.records)

    def size_figure(self) -> Picture | None:
        return self._keep_figure("bits-over-bytes", size.picture(self._main_by_bytes)) if self._compares_bytes else None

    def size(self) -> Markdown | None:
        """Say who predicts best with as few bytes."""
        if not self._compares_bytes:
            return None
        self._keep_table("bits-over-bytes", sizes.sizes(self._main_by_bytes)[sizes.COLUMNS])
        quantization = {record.model: record.quantization for record in self.records if record.quantization}
        equal = {
            "found": equal_bytes.at_equal_bytes(self._by_bytes, self._everything),
            "limits": equal_bytes.SHARES,
            "quantization": quantization,
            "in_float32": [record.model for record in self.records if record.result.savings and record.result.savings.dtype == "float32"],
        }
        return markdown(
            sentences("best_at_size", found=sizes.best_at_sizes(self._main_by_bytes, self._everything)) if self._several_models else "",
            *paragraphs("equal_bytes", **equal),
            size.by_bytes(self._by_bytes),
        )

    def recovery(self) -> Markdown | None:
        """Show what retraining gives back, where the profile asks for it."""
        if (found := recovered([record for record in self._everything if not record.request.bits])).empty:
            return None
        self._keep_table("recovery", found)
        return markdown(*retraining.told(found))

    def zeros(self) -> Markdown:
        """Show where the zeros are."""
        if not self.records:
            return markdown("*No trial is recorded.*")
        by_layer = layers.zeros(self.records)
        self._keep_table("zeros-by-layer", by_layer)
        judged = [record for record in self.records if record.request.key in set(self.main["key"])]
        return markdown(zeros.share_table(judged), sentences("zeros", found=layers.where_zeros_are(by_layer)))

    def zeros_figure(self) -> Picture | None:
        return self._keep_figure("zeros-by-layer", zeros.picture(self.records))

    @cached_property
    def tickets(self) -> ImpResults:
        """The lottery ticket procedure, as far as it is recorded."""
        return ImpResults(list(self.procedure.records) if self.procedure else [])

    def winning_tickets(self) -> Markdown | None:
        """Show the verdict for each architecture, and the losses behind it."""
        if not self.profile.tickets:
            return None
        self._keep_table("winning-ticket", self.tickets.data)
        notebook = f"[executed notebook]({WINNING_TICKET}/{WINNING_TICKET}.ipynb)"
        where = f" ({notebook}); `tables/winning-ticket.csv` names the record of each"
        return markdown(imp.verdicts(self.tickets), imp.protocol(self.tickets, where), imp.losses(self.tickets), imp.problems(self.tickets))

    def tickets_figure(self) -> Picture | None:
        return self._keep_figure("loss-over-weights-left", imp_figures.loss_over_weights_left(self.tickets))

    def steps_figure(self) -> Picture | None:
        return self._keep_figure("steps-over-weights-left", imp_figures.steps_over_weights_left(self.tickets))

    def bridge_figure(self) -> Picture | None:
        return self._keep_figure("tickets-beside-one-shot", imp_figures.bridge(self.tickets, self.scores))

    def bridge(self) -> Markdown | None:
        """Say whether one-shot pruning tells who has the best ticket."""
        if not self.profile.tickets:
            return None
        said = sentences("one_shot_vs_imp", found=rank_agreement(self.tickets, self.scores), fewest=findings.FEWEST_MODELS)
        return markdown(f"**Does one-shot pruning tell who has the best ticket?** {said}", one_shot_vs_imp.told(self.tickets, self.scores))

    def published(self) -> Markdown | None:
        """Show published figures beside those measured here, where there are any on these models."""
        if (known := beside(self.records, self.profile.text)).empty:
            return None
        self._keep_table("published", known)
        return markdown(published.told(known, all(record.kind == "stand-in" for record in self.records)))

    @cached_property
    def _protocols(self) -> dict[str, pd.DataFrame]:
        """For each model that was scored by several protocols, what each gave."""
        return {model.name: protocol_frame(model.protocols) for model in self.models if model.protocols}

    def protocols(self) -> Markdown | None:
        """Show why a perplexity differs from the paper's: the same dense model by every protocol in use."""
        for name, data in self._protocols.items():
            self._keep_table(f"protocols-{name}", data)
        told = [protocols.told(name, data) for name, data in self._protocols.items()]
        if not told:
            return None
        usual = self.profile.text == WIKITEXT and self.profile.seq_len == 2048  # else it says nothing of figures on those
        sources = {model.name: name_of(model.records[0].source) for model in self.models if model.records}
        again = [published.reproduced(sources[name], data) for name, data in self._protocols.items() if name in sources]
        return markdown(*told, *again, published.by_protocol(self._protocols)) if usual else markdown(*told)

    def protocols_figure(self) -> Picture | None:
        """Draw the protocols of the first model that has any."""
        for name, data in self._protocols.items():
            return self._keep_figure(f"protocols-{name}", protocols.picture(name, data))
        return None

    def _keep_figure(self, name: str, picture: Picture | None) -> Picture | None:
        if picture:
            picture.save(self.folder / "figures", name)
        return picture

    def _keep_table(self, name: str, data: pd.DataFrame) -> None:
        atomic_write(self.folder / "tables" / f"{name}.csv", data.to_csv(index=False))

    def tables(self) -> Markdown:
        """Show the five columns of all models; below them what each model is, and why any has no rows."""
        shown, about = self._main_records, []
        for name, records in shown.items():
            first, notebook = records[0], f"[executed notebook]({name}/{name}.ipynb)"
            what = f"{_source(first)}, {first.architecture}, {first.result.parameters:,} parameters{_rounded(first)}"
            about.append(f"- **{name}**: {what} ({notebook}). {tables.about(records)}")
            if known := tables.knowledge(records):
                about.append(f"\n{known}\n")
        gaps = [f"**Incomplete:** {model.name}: {escape_markdown(model.problem)}" for model in self.models if model.problem]
        return markdown(tables.all_models(shown) if shown else "", *gaps, "\n".join(about))

    def answers(self) -> Markdown:
        """Answer the four questions from the records."""
        data, models = self.main, self.main["model"].unique()
        correlations, declines = findings.size_correlations(data), findings.declines(data, self.scores)
        of_each = {model: self.scores[model] for model in models if model in self.scores}
        return markdown(
            f"**Who has the best ticket?** {self._best_ticket} {self._least_lost(findings.levels(data))}",
            "**Do bigger models prune better?** "
            + sentences("size", models=len(models), found=correlations, fewest=findings.FEWEST_MODELS),
            "**Where is the cliff?** " + sentences("cliff", scores=of_each),
            "**Does any architecture degrade gracefully?** " + sentences("grace", found=declines, grace=findings.GRACE),
        )

    def summary(self) -> Markdown | None:
        """Show the ticket scores of all models, and how far each keeps working."""
        if not self.scores:
            return None
        return markdown(
            tables.summary(self.main, self.scores),
            f"A score is a number only where sparsities no more than {100 * FINE:g} points apart were measured on both sides. Its 95% range"
            " covers what lies between them and the sample of text.",
        )

    def savings(self) -> Markdown:
        """Show what zeros save with packed weights, and what they do not with dense ones."""
        if not self.records:
            return markdown("*No speed is recorded.*")
        found = costs.model_savings(self.main)
        real = savings.on_real_models() if found and all(one.stand_in for one in found) else ""
        return markdown(
            *paragraphs("savings", found=found, obstacles=savings.obstacles(self._main_records)),
            savings.by_variant(self._main_records),
            real and "Measured on real language models:",
            real,
            sentences("speed", speeds=costs.dense_speeds(self.data), shares=costs.bandwidth_shares(self.data)),
        )

    def savings_figure(self) -> Picture | None:
        return self._keep_figure("what-zeros-save", savings.picture(self.main)) if self.records else None

    def samples(self) -> Markdown:
        """Show the first sample of every variant of every model, a table a model."""
        parts = [tables.side_by_side(records) for records in self._main_records.values()]
        return markdown(*parts) if parts else markdown("*No text is recorded.*")

    def details(self) -> Markdown:
        """Show, one step behind the five columns, how well each model's variants predict the text, and what they cost."""
        if not self.records:
            return markdown("*No trial is recorded.*")
        parts = [tables.legend()]
        for model, rows in self.data.groupby("model", sort=False):
            records = [record for record in self.records if record.model == model]
            rows = rows.sort_values("sparsity", kind="stable").sort_values("method", kind="stable", key=_in_order)
            parts += [f"### {model}: all figures", tables.quality(rows), tables.cost(records, f"{model}/records")]
        return markdown(*parts)

    def protocol(self) -> Markdown:
        """Say how it was measured, in the profile's own numbers."""
        return markdown(*method.paragraphs(self.profile, self._everything))

    def machines(self) -> Markdown:
        """Show where every number comes from: commit, device, dtype, versions."""
        if not self.records:
            return markdown("*No trial is recorded.*")
        return markdown(*machines.told(self.models, self._everything, self.profile.seed))

    def limits(self) -> Markdown:
        """Say what the figures do not say."""
        return markdown("\n".join(f"- {line}" for line in method.limits(self.profile, self._everything)))

    def reproduce(self) -> Markdown:
        commits = sorted({r.provenance.commit for r in self._everything})
        commit = commits[0] if len(commits) == 1 and commits[0] != "unknown" else ""
        checkout = f"git checkout {commit}\n" if commit else ""
        fetch = f"make fetch PROFILE={self.profile.profile}\n" * any(r.kind in ("hub", "wheel") for r in self.records)
        warning = " Some trials were made with changes that are not committed." if any(r.provenance.dirty for r in self._everything) else ""
        if len(commits) > 1:
            warning += (
                f" The trials were made by {len(commits)} commits, each record names its own; where code has changed since, a new run may"
                " differ."
            )
        return markdown(
            f"```sh\n{checkout}{fetch}make report PROFILE={self.profile.profile}\n```",
            "Same profile, same seed, same machine: the same perplexities and texts. Another machine may differ in the last digits,"
            f" and in speed and memory altogether.{warning}",
        )

    def stand_in_notice(self) -> str:
        """Say which models are stand-ins; nothing where none are."""
        found = [name for name, source in self.profile.checkpoints.items() if source.startswith("stand-in:")]
        if not found:
            return ""
        who = "These are stand-ins" if len(found) == len(self.profile.checkpoints) else f"Stand-ins: {', '.join(found)}"
        return (
            f"> **{who}.** Small models of the same architectures, trained on generated stories, so that the report"
            " can be made anywhere. Nothing here is a statement about the real models."
        )

    def _gaps(self) -> str:
        parts = [*self.models, *([self.procedure] if self.procedure else [])]
        named = [f"- {part.name}: {escape_markdown(part.problem)}" for part in parts if part.problem]
        return "**Incomplete.**\n\n" + "\n".join(named) if named else ""


def _in_order(column: pd.Series) -> pd.Series:
    """Return where each value of a column comes first."""
    return pd.Series(pd.factorize(column)[0], column.index)


def _rounded(record: Record) -> str:
    """Say what was done to the weights before this study, for the caption of a table."""
    return f", weights rounded to {record.quantization} before anything was pruned" if record.quantization else ""


def _source(record: Record) -> str:
    return f"Stand-in for {record.source}" if record.kind == "stand-in" else shown(record.kind, record.source)
