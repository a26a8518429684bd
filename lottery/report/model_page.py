"""What the notebook of a model shows of its study."""

from functools import cached_property

import pandas as pd
from IPython.display import Markdown

from lottery.analysis.protocols import frame
from lottery.common.format import percent
from lottery.experiments.study import Study
from lottery.report import tables
from lottery.report.figures import curve
from lottery.report.markdown import Picture, markdown
from lottery.report.notebook import profile_of_this_notebook
from lottery.report.sections import protocols, savings


def of_this_notebook() -> tuple[Study, "ModelPage"]:
    """Return the study that this notebook's parameters ask for, and the page that shows it."""
    study = Study(profile_of_this_notebook())
    return study, ModelPage(study)


class ModelPage:
    """Shows what lies on disk of a study. It measures nothing but the protocols, which have their own section."""

    def __init__(self, study: Study):
        self.study = study

    def describe(self) -> Markdown:
        """Say what is studied, on what, and how much of it is done."""
        study = self.study
        parameters = sum(p.numel() for p in study.skeleton.parameters())
        profile, windows = study.profile, study.windows
        stand_in = (
            " It is a **stand-in**: nothing measured here is a statement about the real model."
            if study.checkpoint.kind == "stand-in"
            else ""
        )
        return markdown(
            f"**{profile.model_name}**: {study.checkpoint.label} ({study.checkpoint.kind}), {type(study.skeleton).__name__},"
            f" {parameters:,} parameters.{stand_in}",
            f"Text: {study.text.name}, {len(windows.tokens):,} windows of {profile.seq_len:,} tokens,"
            f" {int(windows.scored_bytes.sum()):,} scored bytes."
            f" Profile {profile.profile}: {', '.join(dict.fromkeys(v.label for v in profile.variants if v.pruned and not v.changed))} at"
            f" {', '.join(percent(s) for s in profile.sparsities)}."
            f" {len(study.records)} of {len(study.requests)} trials are recorded.",
        )

    def table(self) -> Markdown:
        return tables.trials(self.study.records)

    def curve(self) -> Picture:
        return curve(self.study.records)

    def savings(self) -> Markdown:
        """Show what the zeros of each variant save with packed weights."""
        return markdown(savings.by_variant({"": self.study.records}))

    def samples(self) -> Markdown:
        return tables.samples(self.study.records)

    def protocols(self) -> Markdown | None:
        """Show the dense model's perplexity by every protocol in use, where the profile asks for it."""
        return markdown(protocols.told(self.study.profile.model_name, self._by_protocol)) if self.study.profile.protocols else None

    def protocols_figure(self) -> Picture | None:
        return protocols.picture(self.study.profile.model_name, self._by_protocol) if self.study.profile.protocols else None

    @cached_property
    def _by_protocol(self) -> pd.DataFrame:
        return frame(self.study.measure_protocols())
