"""The profile: everything that is asked of a run, validated before anything is loaded."""

import difflib
import hashlib
import math
import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from lottery.common.errors import ParamsError, on_one_line, short
from lottery.common.paths import project_root
from lottery.pruning.catalogue import ALLOCATIONS, METHODS
from lottery.pruning.pattern import Pattern
from lottery.pruning.rounding import ROUNDERS
from lottery.pruning.variants import Variant, retrained, rounded, variants
from lottery.training.recoveries import CHOICE, LOSSES, PERIOD, RECOVERIES

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
One = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)  # a single value is a list of one
Alone = BeforeValidator(lambda value: value if isinstance(value, list) else [value])  # the same of numbers
WINNING_TICKET = "winning-ticket"  # the notebook of the lottery ticket procedure, and the folder of what it records
TAKEN = (WINNING_TICKET, "report", "explore", "figures", "tables", "logs")  # names of other notebooks, and of folders beside the models'
Sparsity = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Tickets(BaseModel):
    """The lottery ticket procedure: what is trained from scratch, how often it is pruned and rewound, and for how long."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    models: Annotated[list[str], One] = Field(
        description="a list of keys of 'checkpoints'; their architectures are trained from scratch, with their tokenizers", min_length=1
    )
    train_text: str = Field("training-stories", description="the training text: as 'text', but not the text that is scored", min_length=1)
    levels: int = Field(description="a whole number of rounds of pruning, 1 to 50", ge=1, le=50)
    prune_fraction: float = Field(
        description="a number above 0 and below 1: the fraction of the remaining weights that each round prunes",
        gt=0,
        lt=1,
        allow_inf_nan=False,
    )
    scope: Literal["layer", "global"] = Field(
        "global", description="layer or global: whether weights compete within a layer or across all layers"
    )
    rewind: int = Field(description="a whole number of steps, at least 0 and below 'steps': the step whose weights are restored", ge=0)
    steps: int = Field(description="a whole number of training steps, at least 2", ge=2)
    batch_size: int = Field(description="a whole number of windows a step, at least 1", ge=1)
    seq_len: int = Field(description="a whole number of tokens a window, 2 to 131072", ge=2, le=131072)
    learning_rate: Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Alone] = Field(
        description="the peak learning rate, a number above 0 such as 0.003; or a list, from which each architecture takes the rate with"
        " the lowest dense loss on held-back training text",
        min_length=1,
    )
    seeds: int = Field(description="a whole number of seeds, 1 to 1000; intervals need at least two", ge=1, le=1000)

    @model_validator(mode="after")
    def _makes_sense(self) -> "Tickets":
        if self.rewind >= self.steps:
            raise ValueError(f"tickets['rewind']: given {self.rewind}, with {self.steps} steps; allowed: {_allowed('tickets', 'rewind')}")
        for key in ("models", "learning_rate"):
            _check_once(f"tickets[{key!r}]", getattr(self, key))
        return self


class Recovery(BaseModel):
    """Retraining of every pruned variant on ``calibration_text``, beside what it was before.

    The dense model is retrained on as much, and every pruned one also with its zeros kept: without both nobody could tell what a recovery
    is worth.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    how: Annotated[list[Literal[*RECOVERIES]], One] = Field(
        ["masked"], description=f"{', '.join(RECOVERIES)}, or a list of them; masked is always among them", min_length=1
    )
    start: Annotated[list[Literal["pruned", "dense"]], One] = Field(
        ["pruned"], description="pruned, dense, or a list of both: what elsa starts from", min_length=1
    )
    loss: Annotated[list[Literal[*LOSSES]], One] = Field(
        ["cross-entropy"],
        description=f"{', '.join(LOSSES)}, or a list of both: whether to learn from the text or from the dense model's predictions",
        min_length=1,
    )
    steps: int = Field(
        description="a whole number of steps, 1 to 1000000, with elsa at least 32, or 256 with several rates; a few hundred are usual",
        ge=1,
        le=1_000_000,
    )
    learning_rate: Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Alone] = Field(
        [1e-4],
        description="the peak learning rate, a number above 0 such as 0.0001; or a list, from which each retrained variant takes"
        " the one with the lowest cross-entropy on held-back text after an eighth of the steps",
        min_length=1,
    )
    batch_size: int = Field(4, description="a whole number of windows of 'calibration_seq_len' a step, 1 to 4096", ge=1, le=4096)

    @model_validator(mode="after")
    def _each_once(self) -> "Recovery":
        for key in ("how", "start", "loss", "learning_rate"):
            _check_once(f"recover[{key!r}]", getattr(self, key))
        # Before its first projection ELSA is plain training: too short a run, or too short a trial of a rate, would say nothing of it.
        least = PERIOD * (CHOICE if len(self.learning_rate) > 1 else 1)
        if self.how != ["masked"] and self.steps < least:
            asked = "elsa and several learning rates" if least > PERIOD else "elsa"
            raise ValueError(
                f"recover['steps']: given {self.steps}; allowed with {asked}: at least {least}, since it projects every {PERIOD} steps"
            )
        if "dense" in self.start and self.how == ["masked"]:
            raise ValueError(f"recover['start']: given {short(self.start)}, with how: masked, which starts pruned; allowed: pruned")
        return self


class Settings(BaseModel):
    """How to measure: the keys of a profile that every trial's record repeats, because another value gives other numbers."""

    seq_len: int = Field(description="a whole number of tokens a window, 2 to 131072", ge=2, le=131072)
    max_windows: int | None = Field(None, description="a whole number of windows, at least 1, or null for the whole text", ge=1)
    prompts: int = Field(
        12, description="a whole number of sample texts, 1 to 100; fewer than ten make the verdict unreliable", ge=1, le=100
    )
    prompt_words: int = Field(30, description="a whole number of words a prompt, 1 to 1000", ge=1, le=1000)
    new_tokens: int = Field(50, description="a whole number of generated tokens, 2 to 4096", ge=2, le=4096)
    temperature: float = Field(0.7, description="a number above 0, at most 2", gt=0, le=2)
    repeats: int = Field(5, description="a whole number of timed repeats, 1 to 100", ge=1, le=100)
    seed: int = Field(0, description="a whole number, 0 to 2⁶³ - 1", ge=0, lt=2**63)
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="auto, float32, float16 or bfloat16")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")


class Profile(Settings):
    """What to prune, how far, on what, and how to measure it. Error messages quote the descriptions as what is allowed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    profile: Name = Field(description="a name in lower case, digits, '.', '-' or '_'; results go to outputs/NAME")
    extends: Name | None = Field(
        None,
        description="the name of another profile in params/, whose keys apply unless this one sets them; it replaces a mapping such as"
        " 'tickets' whole",
        exclude=True,
    )
    checkpoints: dict[Name, str] = Field(
        description="a mapping from the name of a model to its checkpoint: 'stand-in:NAME', 'owner/name@REVISION', a folder, a .gguf file"
        " or 'wheel:…'",
        min_length=1,
    )
    model: str | None = Field(None, description="a key of 'checkpoints', 'owner/name@REVISION', a folder with config.json or a .gguf file")
    text: str = Field(
        description="'stories', 'training-stories', 'wikitext-2-raw', or the path of a .txt, .raw or .jsonl file", min_length=1
    )
    methods: Annotated[list[Literal[*METHODS]], One] = Field(description=f"a list of {', '.join(METHODS)}", min_length=1)
    allocation: Annotated[list[Literal[*ALLOCATIONS]], One] = Field(
        ["uniform"], description=f"{', '.join(ALLOCATIONS)}, or a list of them", min_length=1
    )
    pattern: Annotated[list[str], One] = Field(
        ["unstructured"], description="'unstructured', 'N:M' in quotes with N below M, such as '2:4', or a list of them", min_length=1
    )
    sparsities: list[Sparsity] = Field(description="a list of numbers, each at least 0 and below 1, such as [0.5, 0.7]", min_length=1)
    rounding: Annotated[list[Annotated[int, Field(ge=2, le=8)]], Alone] = Field(
        [], description="a list of whole numbers of bits, 2 to 8: the dense model is also rounded to each, in groups of 128 weights"
    )
    rounder: Annotated[list[Literal[*ROUNDERS]], One] = Field(
        ["rtn"], description=f"how 'rounding' chooses the level of a weight: {', '.join(ROUNDERS)}, or a list of them", min_length=1
    )
    rounding_sparsities: list[Sparsity] = Field(
        [], description="a list of numbers of 'sparsities': what is pruned to these is also rounded to each of 'rounding'"
    )
    bisect: bool = Field(
        False,
        description="true or false: add sparsities until the points of +5% and of twice the bits per byte are known within 2.5 points",
    )
    protocols: bool = Field(False, description="true or false: also score the dense model by the other common protocols of perplexity")
    calibration_text: str | None = Field(
        None, description="'training-stories', 'c4', or the path of a .txt, .raw or .jsonl file; not the text that is scored", min_length=1
    )
    calibration_samples: int = Field(128, description="a whole number of samples, 1 to 65536", ge=1, le=65536)
    calibration_seq_len: int = Field(2048, description="a whole number of tokens a sample, 2 to 131072", ge=2, le=131072)
    batch_size: int = Field(1, description="a whole number of windows scored at once, at least 1", ge=1)
    tasks: Annotated[list[str], One] = Field(
        [], description="a list of tasks of lm-evaluation-harness such as [arc_easy, hellaswag], or .yaml files; needs make .venv/tasks"
    )
    recover: Recovery | None = Field(
        None,
        description="retraining of each pruned model, and of the dense one as a control: null, or a mapping such as {how: elsa, steps: 99}",
    )
    tickets: Tickets | None = Field(
        None, description=f"the lottery ticket procedure: null, or a mapping of {', '.join(Tickets.model_fields)}"
    )
    memory: Literal["auto", "resident", "streamed"] = Field(
        "auto", description="auto, resident (the whole model on the device) or streamed (one block at a time from main memory)"
    )

    @field_validator("sparsities", "methods", "allocation", "pattern", "tasks", "rounding", "rounder", "rounding_sparsities")
    @classmethod
    def _no_repeats(cls, values: list, info) -> list:
        _check_once(info.field_name, values)
        return values

    @field_validator("checkpoints")
    @classmethod
    def _own_names(cls, values: dict) -> dict:
        if taken := [name for name in values if name in TAKEN]:
            raise ValueError(f"checkpoints: given {short(taken[0])}; allowed: any other name for a model than {', '.join(TAKEN)}")
        return values

    @field_validator("pattern")
    @classmethod
    def _patterns(cls, values: list[str]) -> list[str]:
        for value in values:
            try:
                Pattern.parse(value)
            except ValueError:
                raise ValueError(f"pattern: given {short(value)}; allowed: {cls.model_fields['pattern'].description}") from None
        return values

    @model_validator(mode="after")
    def _makes_sense(self) -> "Profile":
        if self.recover and self.dtype == "float16":
            raise ValueError("dtype: given 'float16', in which recover cannot train; allowed: auto, float32, bfloat16")
        needy = [variant.label for variant in self.variants if variant.calibrated] + ["recover"] * (self.recover is not None)
        if needy and self.calibration_text is None:
            allowed = type(self).model_fields["calibration_text"].description
            raise ValueError(f"calibration_text: not given, but {needy[0]} needs it; allowed: {allowed}")
        for key, given in {"text": self.text, "tickets['train_text']": self.tickets and self.tickets.train_text}.items():
            if given == "c4":
                raise ValueError(
                    f"{key}: given 'c4', which is for calibration: 800 MB of its training split; allowed: a file with some of it"
                )
        if needy and self.calibration_text == self.text:
            raise ValueError(f"calibration_text: given {short(self.text)}, the text that is scored; allowed: another one")
        for key in ("rounding_sparsities", "rounder"):
            if not self.rounding and getattr(self, key) != type(self).model_fields[key].default:
                allowed = type(self).model_fields["rounding"].description
                raise ValueError(f"rounding: not given, but {key} is; allowed: {allowed}")
        if unknown := [one for one in self.rounding_sparsities if one not in self.sparsities or not one]:
            raise ValueError(f"rounding_sparsities: given {unknown[0]:g}; allowed: numbers above 0 of 'sparsities', {self.sparsities}")
        if self.tickets and (unknown := [name for name in self.tickets.models if name not in self.checkpoints]):
            raise ValueError(f"tickets['models']: given {short(unknown[0])}; allowed: keys of 'checkpoints', {', '.join(self.checkpoints)}")
        if self.tickets and self.tickets.train_text == self.text:
            raise ValueError(f"tickets['train_text']: given {short(self.text)}, the text that is scored; allowed: another one")
        return self

    def with_model(self, name: str | None) -> "Profile":
        """Return the profile of one model of it."""
        return self.model_copy(update={"model": name})

    @property
    def parts(self) -> list[str]:
        """The notebooks that make up the study: one a model, and the one of the ticket procedure where the profile asks for it."""
        return [*self.checkpoints, *([WINNING_TICKET] if self.tickets else [])]

    @property
    def variants(self) -> list[Variant]:
        """What is measured of each model: dense, every combination of ways and sparsities, what is retrained, and what is rounded."""
        found = variants(self.methods, self.allocation, self.pattern, self.sparsities)
        recovered = retrained(found, self.recover.how, self.recover.start, self.recover.loss) if self.recover else []
        return found + recovered + rounded(found, self.rounding, self.rounder, self.rounding_sparsities)

    @property
    def calibrated(self) -> bool:
        """Whether any variant, or its retraining, needs calibration data."""
        return self.recover is not None or any(variant.calibrated for variant in self.variants)

    @property
    def model_name(self) -> str:
        """The name under which the model's results are filed.

        A model with a notebook has the notebook's name. Any other has the last part of its id or folder, with six digits of a hash of the
        whole, since another owner may have given a model the same name.
        """
        if self.model in self.checkpoints:
            return self.model
        last = self.model.split("@")[0].rstrip("/").split("/")[-1].lower()
        name = re.sub(r"[^a-z0-9._-]+", "-", last).strip("-.") or "model"
        return f"{name}-{hashlib.sha256(self.model.encode()).hexdigest()[:6]}"


def known_profiles() -> list[str]:
    return sorted(path.stem for path in (project_root() / "params").glob("*.yaml"))


def load_profile(name: str, **changes: Any) -> Profile:
    """Return the profile in ``params/<name>.yaml`` with single keys changed, on top of the profile that it extends.

    Without such a file the changes alone must make a whole profile: that is how ``papermill -f my.yaml`` arrives.

    Args:
        name: The name of a file in ``params/``, without its ending.
        **changes: The keys to change, with their new values.

    Raises:
        ParamsError: A key is wrong. One line says which key, what was given, and what is allowed.
    """
    unknown = ParamsError(f"profile: given {short(name)}; allowed: the name of a file in params/ ({', '.join(known_profiles())})")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise unknown
    path = project_root() / "params" / f"{name}.yaml"
    values = _extended({**(read_yaml(path) if path.exists() else {}), **changes}, [name])
    if not path.exists() and not set(values) >= {key for key, field in Profile.model_fields.items() if field.is_required()} - {"profile"}:
        raise unknown
    return validated({**values, "profile": name})


def _extended(values: dict[str, Any], chain: list[str]) -> dict[str, Any]:
    """Return the keys of a profile on top of those of the profile that it extends; ``chain`` holds the profiles so far, this one last."""
    base = values.get("extends")
    if base is None:
        return values
    if base in chain:
        raise ParamsError(f"extends: given {short(base)}, a circle: {' > '.join([*chain, base])}; allowed: a profile outside it, or null")
    if base not in known_profiles():
        raise ParamsError(f"extends: given {short(base)}; allowed: the name of another profile in params/ ({', '.join(known_profiles())})")
    return {**_extended(read_yaml(project_root() / "params" / f"{base}.yaml"), [*chain, base]), **values}


def read_yaml(path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path.name} is not YAML: {on_one_line(error)}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path.name}: given {short(values)}; allowed: lines of 'key: value'")
    return values


def keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys of a profile, or of a mapping in it: what to measure first, then the settings, which say how."""
    return sorted(model.model_fields, key=lambda name: name not in model.__annotations__)


def validated(values: dict[str, Any]) -> Profile:
    """Return a profile from plain values, or raise ``ParamsError`` with the first fault."""
    for key in values:
        if not isinstance(key, str):  # YAML reads on, yes and 1 as other things than text
            raise ParamsError(f"unknown key {short(key)} (given {short(values[key])}); allowed: {', '.join(keys_of(Profile))}")
    try:
        return Profile(**values)
    except ValidationError as error:
        faults = sorted(error.errors(), key=lambda fault: fault["type"] == "missing")  # a wrong name explains what is missing
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ParamsError(_sentence(faults[0]) + more) from None


def _sentence(fault: dict) -> str:
    if fault["type"] == "value_error":  # our own validators say the whole sentence
        return str(fault["ctx"]["error"])
    key, *inner = fault["loc"]
    where = key + "".join(f"[{short(part)}]" for part in inner if part != "[key]")
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = keys_of(_NESTED[key] if inner else Profile)
        close = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f", did you mean '{close[0]}'?" if close else ""
        name = short(".".join(map(str, fault["loc"])))
        return f"unknown key {name} (given {short(fault['input'])}){hint}; allowed: {', '.join(known)}"
    allowed = _allowed(key, *inner)
    if fault["type"] == "missing":
        return f"{where}: not given; allowed: {allowed}"
    given = short(fault["input"])
    if isinstance(fault["input"], str) and _is_number(fault["input"]):
        given += " (text: write numbers in YAML without quotes, and 1e-4 as 1.0e-4)"
    return f"{where}: given {given}; allowed: {allowed}"


_NESTED = {"tickets": Tickets, "recover": Recovery}


def _allowed(key: str, *inner: str) -> str:
    """Return what a key of a profile may be, also one inside another key."""
    nested = _NESTED[key].model_fields if key in _NESTED else {}
    return (nested[inner[0]] if inner and inner[0] in nested else Profile.model_fields[key]).description


def _check_once(where: str, values: list) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"{where}: given {short(values)}, with repeats; allowed: each value once")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
