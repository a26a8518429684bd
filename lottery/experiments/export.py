"""A variant of a study as a folder in the sparse-bitmask format, pruned and retrained exactly as its trial was."""

from pathlib import Path

from lottery.common.errors import ParamsError, short
from lottery.common.format import NBSP, dtype_name, number, percent, size
from lottery.config.profile import Profile
from lottery.experiments.study import Study
from lottery.models.blocks import prunable
from lottery.models.checkpoints import FILES
from lottery.sparse import folder


def export(profile: Profile, variant: str) -> Path:
    """Prune a model and write it.

    Values are stored in the dtype of the checkpoint, or that of the profile where it names one. Methods that change the remaining weights,
    and retraining, work in the dtype of the study; their results are rounded to the stored one.

    Args:
        profile: The profile, with its ``model``.
        variant: What the variant is called, such as 'wanda 50%'.

    Returns:
        The folder, ``outputs/PROFILE/MODEL/export/…``.

    Raises:
        ParamsError: The profile has no such variant.
        LotteryError: The folder exists, or a weight is not finite in the stored dtype.
    """
    study = Study(profile)
    titles = {request.title.replace(NBSP, " "): request for request in study.requests if request.variant.pruned and not request.bits}
    if (request := titles.get(" ".join(variant.split()))) is None:
        raise ParamsError(f"VARIANT: given {short(variant)}; allowed: {', '.join(titles)}")
    target = study.folder / "export" / request.file_name.removesuffix(".json")
    folder.check_free(target)
    model, seconds, recovered, *_ = study.trials.prune(request, request.title)
    study.say(f"{request.title}: pruned in {number(seconds)} s" + (f", retrained in {number(recovered)} s" if recovered else ""))
    dtype = study.stored_dtype
    whole = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    layers = list(prunable(model))
    dense = folder.write(model, layers, dtype, study.checkpoint.folder, FILES, target)
    stored = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    short_dtype = dtype_name(dtype)
    study.say(f"{target}: {size(stored)} in {short_dtype}, {percent(stored / whole)} of the dense model's {size(whole)}")
    if dense:
        study.say(f"{len(dense)} of {len(layers)} layers stay dense, because packed they would be larger: {short(', '.join(dense))}")
    return target
