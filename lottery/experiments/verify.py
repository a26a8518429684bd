"""Measure a random sample of recorded trials again and compare: ``python -m lottery verify PROFILE``. No record is touched."""

import math
import random

from lottery.common.errors import LotteryError
from lottery.common.format import commit, number
from lottery.common.paths import outputs
from lottery.config.profile import Profile
from lottery.experiments.imp.records import TicketRecord
from lottery.experiments.provenance import COMMIT, DIRTY
from lottery.experiments.records import Record
from lottery.experiments.status import run_status

# Relative, of bits per byte: on the machine of the record figures are equal, on another they differ by rounding. Those of methods that
# update weights may differ by more, since what was rounded decides which weights go next.
TOLERANCE = 1e-4


def verify(profile: Profile, count: int, seed: int) -> int:
    """Measure recorded trials again and print how they compare.

    A trial is the same where bits per byte, or a ticket's loss, agree to ``TOLERANCE`` and the same share of each layer is zero. The output
    also says whether the texts are the same.

    Args:
        profile: Whose records are checked.
        count: How many trials to draw; all of them where fewer are recorded.
        seed: The seed of the draw.

    Returns:
        How many trials differ.

    Raises:
        LotteryError: Nothing is recorded.
    """
    found = [record for name in profile.parts for record in run_status(profile, name).records]
    found = [record for record in found if isinstance(record, Record) or record.result.curve]  # without it nothing was trained
    if not found:
        raise LotteryError(f"nothing is recorded under {outputs(profile.profile)}; run make report PROFILE={profile.profile} first")
    drawn = random.Random(seed).sample(found, min(count, len(found)))
    drawn.sort(key=found.index)  # trials of one model behind each other
    print(f"measuring {len(drawn)} of {len(found)} recorded trials again, drawn with seed {seed}", flush=True)
    different, study = 0, None
    for record in drawn:
        if isinstance(record, TicketRecord):
            label, (said, same) = record.title, _ticket(profile, record)
        else:
            if study is None or study.profile.model_name != record.model:
                study = _study(profile, record.model)
            label = f"{record.model}, {record.request.title}"
            said, same = compared(record, study.trials.run(record.request, f"again, {record.request.title}"))
        different += not same
        print(f"{'same' if same else 'DIFFERENT'}: {label}: {said}", flush=True)
    print(f"{len(drawn) - different} of {len(drawn)} trials are the same" + (_why() if different else ""), flush=True)
    return different


def compared(record: Record, again: Record) -> tuple[str, bool]:
    """Say how two measurements of one trial compare, in words, and whether they are the same."""
    was, now = record.result, again.result
    close = math.isclose(was.bits_per_byte, now.bits_per_byte, rel_tol=TOLERANCE)
    zeros = was.sparsity_layers == now.sparsity_layers
    texts = [result.texts and [sample.text for sample in result.texts.samples] for result in (was, now)]
    said = "perplexity " + (f"{number(was.perplexity)} again" if was.perplexity == now.perplexity else _changed(was, now))
    if any(texts):
        said += ", texts the same" if texts[0] == texts[1] else ", other texts"
    if not zeros:
        said += ", zeros in other layers"
    here, there = (f"{r.provenance.device}, {r.provenance.dtype}" for r in (again, record))
    return said + (f" (recorded on {there}; now {here})" if here != there else ""), close and zeros


def _ticket(profile: Profile, record: TicketRecord) -> tuple[str, bool]:
    """Make a run of the ticket procedure again, and say how it compares with its record."""
    from lottery.experiments.imp import run

    was = record.result
    try:
        now = run.again(profile, record.request)
    except LotteryError as error:
        return f"cannot be made again: {error}", False
    close = was.loss == now.loss or math.isclose(was.loss, now.loss, rel_tol=TOLERANCE)
    said = f"loss {number(was.loss)} again" if was.loss == now.loss else f"loss {was.loss:.6g} recorded, {now.loss:.6g} now"
    masks = was.sparsity_layers == now.sparsity_layers
    return said + ("" if masks else ", zeros in other layers"), close and masks


def _changed(was, now) -> str:
    change = f"by {now.perplexity / was.perplexity - 1:+.1e} of it" if math.isfinite(was.perplexity) else "once infinite"
    return f"{number(was.perplexity)} recorded, {number(now.perplexity)} now, {change}"


def _why() -> str:
    return f"; now at commit {commit(COMMIT, DIRTY)}, the records say at which commit and on what they were made"


def _study(profile: Profile, model: str):
    from lottery.experiments.study import Study  # transformers takes seconds, which a wrong argument should not cost

    return Study(profile.with_model(model))
