"""The profile that a running notebook asks for."""

import ast
from typing import Any

from IPython import get_ipython

from lottery.common.errors import ParamsError
from lottery.config.profile import Profile, load_profile


def notebook_parameters(history: list[str], namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that a running notebook was given, whichever way: edited in its cell, or injected by papermill.

    papermill accepts a misspelt parameter: it only sets a variable that nobody reads. It has to be rejected here, so the names are taken
    from the cells themselves. Both the notebook's own cell and the one that papermill puts behind it begin with ``# Parameters``. Only what
    was executed since the own cell last ran counts, so that a mistake can be corrected and run again.

    Args:
        history: The sources executed so far (IPython's ``In``).
        namespace: The notebook's variables.
    """
    marked = [index for index, source in enumerate(history) if source.lstrip().startswith("# Parameters:")]
    if not marked:
        raise ParamsError("no cell that begins with '# Parameters:' has run; run the notebook from its first cell")
    names: list[str] = []
    for source in history[marked[-1] :]:
        if source.lstrip().startswith("# Parameters"):
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.append(node.id)
    return {name: namespace[name] for name in dict.fromkeys(names) if name in namespace}


def profile_of_this_notebook() -> Profile:
    """Return the validated profile of the notebook that calls it."""
    shell = get_ipython()
    if shell is None:
        raise ParamsError("this is not a notebook: use load_profile('demo')")
    given = notebook_parameters(shell.user_ns.get("In", []), shell.user_ns)
    return load_profile(given.pop("profile", "demo"), **given)
