"""Any two variants of a study beside each other, from their records: with widgets where they run, as plain output where they do not."""

import ipywidgets
from IPython.display import Markdown, display

from lottery.analysis.frame import frame
from lottery.common.errors import LotteryError
from lottery.common.format import NBSP, percent
from lottery.common.paths import outputs
from lottery.config.profile import Profile
from lottery.evaluation.metrics import METRICS
from lottery.experiments.records import Record
from lottery.experiments.status import run_status
from lottery.report import figures
from lottery.report.markdown import Picture, escape_markdown, markdown, table
from lottery.report.notebook import profile_of_this_notebook


class Explorer:
    """Displays itself: two menus of everything that is recorded, and below them the two variants' figures, texts and curves.

    Where a notebook is only read, such as in a browser without a kernel, the first two variants stand there as text.

    Raises:
        LotteryError: Nothing is recorded.
    """

    def __init__(self, profile: Profile):
        found = [record for name in profile.checkpoints for record in run_status(profile, name).records]
        if not found:
            raise LotteryError(f"nothing is recorded under {outputs(profile.profile)}; run make report PROFILE={profile.profile} first")
        self.records = {f"{record.model}, {record.request.title}".replace(NBSP, " "): record for record in found}
        self.data = frame(found)

    @classmethod
    def from_notebook(cls) -> "Explorer":
        """Return the explorer of the study that this notebook's parameters name."""
        return cls(profile_of_this_notebook())

    def names(self) -> list[str]:
        """Return what there is to compare, such as 'mistral-7b, magnitude 50%'."""
        return list(self.records)

    def compare(self, one: str, other: str) -> Markdown:
        """Show two variants beside each other: their figures, and how they continue the same beginnings.

        Args:
            one: The name of a variant.
            other: The name of another.

        Raises:
            LotteryError: A name is not among ``names()``.
        """
        left, right = self._record(one), self._record(other)
        texts = [
            {
                "Beginning": escape_markdown(sample.prompt),
                "Continued": sample.how,
                one: escape_markdown(sample.text) or "(nothing)",
                other: escape_markdown(_counterpart(right, sample)),
            }
            for sample in (left.result.texts.samples if left.result.texts else [])
        ]
        figures_of_both = [{"": name, one: value, other: _figures(right)[name]} for name, value in _figures(left).items()]
        return markdown(table(figures_of_both), table(texts, right="") or "*The first of them was scored only.*")

    def curves(self, one: str, other: str) -> Picture:
        """Draw bits per byte over sparsity of the models of two variants, by every way of pruning that was measured of them."""
        models = {self._record(name).model for name in (one, other)}
        return figures.over_sparsity(self.data[self.data["model"].isin(models)])

    def _record(self, name: str) -> Record:
        if name not in self.records:
            raise LotteryError(f"given {name!r}; allowed: {'; '.join(self.names())}")
        return self.records[name]

    def _repr_mimebundle_(self, include=None, exclude=None):
        first = self.names()[0], self.names()[min(1, len(self.names()) - 1)]
        still = self.compare(*first).data
        return {**self._menus(*first)._repr_mimebundle_(), "text/markdown": still, "text/plain": still}

    def _menus(self, one: str, other: str) -> ipywidgets.VBox:
        wide = ipywidgets.Layout(width="24rem")
        left, right = (ipywidgets.Dropdown(options=self.names(), value=value, layout=wide) for value in (one, other))
        shown = ipywidgets.interactive_output(self._show, {"one": left, "other": right})
        return ipywidgets.VBox([ipywidgets.HBox([left, right]), shown])

    def _show(self, one: str, other: str) -> None:
        display(self.compare(one, other), self.curves(one, other))


def _figures(record: Record) -> dict[str, str]:
    result = record.result
    found = {metric.title: metric.shown(result.metrics[name]) for name, metric in METRICS.items()}
    found["Zeros in the whole model"] = percent(result.sparsity_model)
    found["Verdict on the texts"] = result.texts.verdict.said if result.texts else ""
    return found


def _counterpart(record: Record, sample) -> str:
    """Return what another variant wrote after the same beginning in the same way."""
    written = record.result.texts.samples if record.result.texts else []
    found = (s.text for s in written if (s.prompt, s.how) == (sample.prompt, sample.how))
    return next(found, "") or "(nothing)"
