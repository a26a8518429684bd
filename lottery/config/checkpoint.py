"""The checkpoint behind a profile's model."""

from lottery.common.errors import ParamsError, short
from lottery.common.paths import resolve
from lottery.config.profile import Profile
from lottery.models import gguf_files
from lottery.models.checkpoints import HUB_ID, Checkpoint, stand_ins
from lottery.models.gguf_files import Pin


def checkpoint(profile: Profile) -> Checkpoint:
    """Return the checkpoint that ``profile.model`` names.

    Raises:
        ParamsError: The name is not the name of a notebook, not an id with a full revision, and not a folder.
    """
    if profile.model is None:
        raise ParamsError(f"model: not given; allowed: {', '.join(profile.checkpoints)}, owner/name@REVISION, or a folder with config.json")
    wanted = profile.checkpoints.get(profile.model, profile.model)
    key = f"checkpoints[{profile.model!r}]" if profile.model in profile.checkpoints else "model"
    if wanted.startswith("stand-in:"):
        name = wanted.removeprefix("stand-in:")
        known = stand_ins()
        if name not in known:
            raise ParamsError(f"{key}: given {short(wanted)}; allowed stand-ins: {', '.join(known)}")
        return Checkpoint(profile.model_name, "stand-in", name)
    if HUB_ID.fullmatch(wanted):
        return Checkpoint(profile.model_name, "hub", wanted)
    if wanted.startswith("wheel:"):
        Pin.parse(wanted, key)
        return Checkpoint(profile.model_name, "wheel", wanted)
    folder = resolve(wanted)
    if wanted.endswith(".gguf") and folder.is_file():
        return Checkpoint(profile.model_name, "gguf", str(folder))
    if (folder / "config.json").is_file():
        return Checkpoint(profile.model_name, "folder", str(folder))
    raise ParamsError(
        f"{key}: given {short(wanted)}; allowed: {', '.join(profile.checkpoints)}, owner/name@REVISION with the 40 digits of a commit,"
        f" a folder with config.json, a .gguf file, or {gguf_files.SYNTAX} (looked for {folder})"
    )
