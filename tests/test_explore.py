import json
import math

import papermill
import pytest
import yaml
from nbclient.exceptions import CellTimeoutError

from lottery.common.errors import LotteryError
from lottery.common.paths import outputs
from lottery.config.profile import validated
from lottery.report.explorer import Explorer
from tests.conftest import TOY
from tests.test_report import fill, profile  # noqa: F401 - a fixture


@pytest.fixture
def explorer(profile):  # noqa: F811
    fill(profile, "mistral-7b", [10, 12, 18, math.inf], text="Once | more `x`.")
    fill(profile, "phi-2", [10, 12, 18, 500])
    return Explorer(profile)


def test_everything_that_is_recorded_can_be_compared(explorer):
    assert explorer.names()[:2] == ["mistral-7b, dense", "mistral-7b, magnitude 50%"]
    assert len(explorer.names()) == 8
    shown = explorer.compare("mistral-7b, magnitude 90%", "phi-2, dense").data
    assert "∞" in shown
    assert "10.0" in shown
    assert "Once &#124; more &#96;x&#96;." in shown, "text that a model wrote stays text"
    assert "Once more." in shown


def test_curves_are_those_of_both_models(explorer):
    both = explorer.curves("mistral-7b, dense", "phi-2, dense")
    assert "mistral-7b: dense" in both.alt
    assert "phi-2: dense" in both.alt
    assert "phi-2" not in explorer.curves("mistral-7b, dense", "mistral-7b, magnitude 50%").alt


def test_menus_where_widgets_run_and_text_where_they_do_not(explorer):
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/markdown"] == explorer.compare(*explorer.names()[:2]).data


def test_choosing_another_variant_shows_it(explorer):
    menus = explorer._menus(*explorer.names()[:2])
    left, right = menus.children[0].children
    assert left.options == tuple(explorer.names())
    right.value = "phi-2, magnitude 70%"
    assert (left.value, right.value) == ("mistral-7b, dense", "phi-2, magnitude 70%")


def test_a_name_that_is_not_there_is_answered_with_those_that_are(explorer):
    with pytest.raises(LotteryError, match=r"given 'phi-2'; allowed: mistral-7b, dense; mistral-7b, magnitude 50%; "):
        explorer.compare("phi-2", "phi-2, dense")


def executed(project, attempts=3):
    """Once in a while the answer of a kernel with widgets is lost, and papermill would wait for it for ever."""
    for attempt in range(1, attempts + 1):
        try:
            return papermill.execute_notebook(
                str(project / "notebooks" / "explore.ipynb"), str(project / "out.ipynb"), {"profile": "toy"}, progress_bar=False,
                cwd=str(project), execution_timeout=90,
            )  # fmt: skip
        except CellTimeoutError:
            if attempt == attempts:
                raise


def test_the_notebook_runs_as_it_is(profile, project):  # noqa: F811
    fill(profile, "mistral-7b", [10, 12, 18, math.inf])
    fill(profile, "phi-2", [10, 12, 18, 500])
    (project / "params" / "toy.yaml").write_text(yaml.safe_dump(profile.model_dump(exclude={"profile", "model", "extends"})))
    ran = executed(project)
    shown = json.dumps([cell.outputs for cell in ran.cells if cell.cell_type == "code"])
    assert "phi-2, magnitude 90%" in shown
    assert "image/svg+xml" in shown


def test_with_nothing_recorded_it_says_what_records(project):
    with pytest.raises(LotteryError, match=r"nothing is recorded under .*toy; run make report PROFILE=toy first"):
        Explorer(validated({**TOY, "model": None}))
    assert not outputs("toy").exists()
