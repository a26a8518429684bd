"""What others have published on pruned models, beside what was measured here, as tables with their sentences."""

import pandas as pd

from lottery.analysis import published
from lottery.common.format import change, number
from lottery.report.markdown import markdown, table
from lottery.report.sentences import sentences


def told(found: pd.DataFrame, stand_ins: bool) -> str:
    """Return published figures beside measured ones as a table, and what there is to say about the difference.

    Args:
        found: What ``published.beside`` returns.
        stand_ins: Whether only stand-ins were measured.
    """
    rows = [
        {
            "Model": row.model,
            "Pruned": published.variant(row.method, row.pattern),
            "Published": number(row.perplexity),
            "Here": number(row.here) if pd.notna(row.here) else "–",
            "Protocol": row.protocol,
            "Source": f"{row.source} ({row.standing})",
        }
        for row in found.itertuples()
    ]
    return markdown(
        table(rows, "Perplexities on WikiText-2 as published, and as measured here.", "Published|Here"),
        sentences("differences", found=published.differences(found), stand_ins=stand_ins),
        sentences("first_table", found=published.first_table()),
        sentences("magnitude_gaps", found=published.magnitude_gaps()),
    ).data


def by_protocol(measured: dict[str, pd.DataFrame]) -> str:
    """Compare published dense figures by other protocols with those of the full test in windows of 2048.

    Beside each stands what the same protocol changes in the models that were scored by it here. Where a figure does not say its own
    protocol, the text says which one may be behind it.

    Args:
        measured: For each model scored here, its frame of protocols.
    """
    found = published.other_protocols(measured)
    rows = [
        {
            "Published": f"{at.model}, {number(at.perplexity)}",
            "Protocol": at.protocol,
            "Against 2048": change(at.change),
            "Here": "; ".join(f"{change(own.change)} ({own.model}{'' if at.named else ', ' + own.protocol})" for own in at.here),
            "Source": at.source,
        }
        for at in found
    ]
    caption = "Published dense perplexities by another protocol than the full test's, and what that protocol changes here."
    unnamed = sentences("unnamed_protocols", found=[at for at in found if not at.named])
    return markdown(table(rows, caption, "Against 2048"), unnamed).data if rows else ""


def reproduced(name: str, data: pd.DataFrame) -> str:
    """Say which protocols reproduce what is published of a dense model, in a sentence a figure."""
    return sentences("reproduced", name=name, found=published.reproductions(name, data), same=published.SAME)
