"""How a study was measured, in the profile's own numbers, and what its figures do not say."""

from lottery.analysis.method import measured
from lottery.config.profile import Profile
from lottery.experiments.records import Record
from lottery.pruning.catalogue import ALLOCATIONS, METHODS
from lottery.pruning.rounding import ROUNDERS
from lottery.report.sentences import paragraphs as told
from lottery.training.recoveries import LOSSES, RECOVERIES


def paragraphs(profile: Profile, records: list[Record]) -> list[str]:
    """Return what was done, as Markdown: the ways of pruning, the text, and whatever else was asked for."""
    variants, found = [variant for variant in profile.variants if variant.one_shot], measured(records)
    methods = {variant.method: METHODS[variant.method] for variant in variants}
    allocations = {v.allocation: ALLOCATIONS[v.allocation] for v in variants if v.allocation != "uniform"}
    ways = told("ways_of_pruning", profile=profile, found=found, ways={**methods, **allocations})
    known = {"rounders": ROUNDERS, "recoveries": RECOVERIES, "losses": LOSSES}
    return ["\n".join(f"- {way}" for way in ways), *told("method", profile=profile, found=found, **known)]


def limits(profile: Profile, records: list[Record]) -> list[str]:
    """Return what the figures of a study do not say, a sentence or two each."""
    return told("limits", profile=profile, found=measured(records))
