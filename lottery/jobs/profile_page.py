"""The tables in ``docs/profiles.md``: keys of a profile, methods, rounders, ways to retrain and more. ``make docs`` writes them."""

import json
import re

from pydantic import BaseModel

from lottery.common.files import atomic_write
from lottery.common.paths import project_root
from lottery.config.profile import Profile, Recovery, Tickets, keys_of
from lottery.pruning.catalogue import ALLOCATIONS, METHODS
from lottery.pruning.rounding import ROUNDERS
from lottery.training.recoveries import LOSSES, RECOVERIES

BEGIN, END = "<!-- `make docs` writes all between this line and the next comment -->", "<!-- end -->"


def with_tables(page: str) -> str:
    """Return the page with current tables between its two comments."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return "\n\n".join([before.rstrip() + f"\n\n{BEGIN}", *_tables(), END + after])


def _tables() -> list[str]:
    found = []
    for title, model in {"All keys": Profile, "The keys of `tickets`": Tickets, "The keys of `recover`": Recovery}.items():
        found += [f"## {title}", _table("Key | Allowed | Default", [_key(name, model) for name in keys_of(model)])]
    for title, entries in {"Method": METHODS, "Allocation": ALLOCATIONS, "Rounder": ROUNDERS}.items():
        rows = [f"`{name}` | {one.summary} | {'yes' if one.calibrated else 'no'} | {one.source}" for name, one in entries.items()]
        found += [f"## {title}s", _table(f"{title} | What it does | Needs `calibration_text` | Source", rows)]
    for title, head, entries in (
        ("Ways to retrain", "`how` of `recover` | What it does", RECOVERIES),
        ("Losses", "`loss` of `recover` | What is learned", LOSSES),
    ):
        found += [f"## {title}", _table(head, [f"`{name}` | {summary}" for name, summary in entries.items()])]
    return found


def _key(name: str, model: type[BaseModel]) -> str:
    field = model.model_fields[name]
    allowed = re.sub(r"(?<!\w)'([^']+)'(?!\w)", r"`\1`", field.description)
    return f"`{name}` | {allowed} | {'required' if field.is_required() else f'`{json.dumps(field.default)}`'}"


def _table(head: str, rows: list[str]) -> str:
    return "\n".join(f"| {row} |" for row in [head, " | ".join("---" for _ in head.split(" | ")), *rows])


def write() -> None:
    path = project_root() / "docs" / "profiles.md"
    atomic_write(path, with_tables(path.read_text(encoding="utf-8")))
