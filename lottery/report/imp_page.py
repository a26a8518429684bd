"""What the notebook of the lottery ticket procedure shows of it."""

from lottery.analysis.imp.results import ImpResults
from lottery.common.format import counted, percent
from lottery.experiments.imp.records import sparsity_of
from lottery.experiments.imp.study import TicketStudy
from lottery.report.markdown import markdown
from lottery.report.notebook import profile_of_this_notebook
from lottery.report.sections import imp, imp_figures


def of_this_notebook() -> tuple[TicketStudy, "TicketPage"]:
    """Return the procedure that this notebook's parameters ask for, and the page that shows it."""
    study = TicketStudy(profile_of_this_notebook())
    return study, TicketPage(study)


class TicketPage:
    """Shows what lies on disk of the procedure."""

    def __init__(self, study: TicketStudy):
        self.study = study

    def describe(self):
        """Say what is trained, how often, and how much of it is done."""
        asked = self.study.profile.tickets
        left = ", ".join(percent(1 - sparsity_of(level, asked.prune_fraction)) for level in range(1, asked.levels + 1))
        return markdown(
            f"{', '.join(f'{name} ({count:,} parameters)' for name, count in self.study.parameters.items())}, each from nothing, on"
            f" {asked.train_text}, with {counted(asked.seeds, 'seed')}. {imp.schedule(asked)}"
            f" After the rounds {left} are left."
            f" {len(self.study.records)} of {len(self.study.requests)} trials are recorded."
        )

    def loss(self):
        return imp_figures.loss_over_weights_left(ImpResults(self.study.records))

    def steps(self):
        return imp_figures.steps_over_weights_left(ImpResults(self.study.records))

    def verdicts(self):
        outcome = ImpResults(self.study.records)
        return markdown(imp.verdicts(outcome), imp.losses(outcome), imp.problems(outcome))
