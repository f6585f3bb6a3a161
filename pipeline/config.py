"""From a preset or a file and the words of the command line to a typed, checked configuration.

A configuration names for every step the model and its options::

    depth: {model: multiview, neighbors: 4}
    export: {points: {}, mesh: {}}     # several at once: one entry a format
    run: {seed: 0}

On the command line the same is written `depth.neighbors=4`; `depth.model=none` leaves a step
out, and `export.mesh=none` or `export.flo=on` leaves out or adds a format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError

from pipeline import renamed
from pipeline.chain import EXPORT, ORDER, Choice
from pipeline.contract import Options
from pipeline.contract.stage import models, options_of
from pipeline.errors import (
    UsageError,
    did_you_mean,
)

__all__ = ["RunConfig", "RunOptions", "is_override", "load", "presets"]

LARGEST_FILE_BYTES = 1 << 20
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"})

OFF = ("none", False)
"""What leaves out a format; YAML reads `off` as False."""

Tree = dict[str, Any]
AnyOptions = TypeVar("AnyOptions", bound=Options)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


class RunOptions(Options):
    """What holds for the whole run."""

    seed: int = Field(0, ge=0, description="every random choice derives from it")
    threads: int = Field(
        default_factory=_cores, ge=1, le=1024, description="threads a stage may use"
    )
    prefetch: int = Field(2, ge=1, le=64, description="clips that may wait between two stages")
    deadline_s: float = Field(
        300.0,
        gt=0,
        le=86_400,
        description="a clip that keeps a worker for longer has hung (cluster)",
    )
    attempts: int = Field(
        3, ge=1, le=100, description="workers that one clip may end before it is given up (cluster)"
    )
    budget_mb: int | None = Field(
        None, ge=16, description="bytes of clips under way; a share of the object store (cluster)"
    )


@dataclass(frozen=True)
class RunConfig:
    """A resolved configuration."""

    preset: str
    run: RunOptions
    choices: tuple[Choice, ...]

    def as_tree(self) -> Tree:
        """Return plain values; written as YAML they repeat the run through `--config`."""
        tree: Tree = {"run": self.run.model_dump(mode="json")}
        for choice in self.choices:
            values = choice.options.model_dump(mode="json")
            if choice.step == EXPORT:
                tree.setdefault(EXPORT, {})[choice.model] = values
            else:
                tree[choice.step] = {"model": choice.model, **values}
        return tree


def presets() -> dict[str, Path]:
    """Return the presets that come with reel3d, by name."""
    packaged = Path(str(resources.files("pipeline"))) / "presets"
    folder = packaged if packaged.is_dir() else Path(__file__).parent.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def is_override(word: str) -> bool:
    """Say whether a word of the command line is `step.option=value` and not a source."""
    match = re.match(r"([a-z_]+)((\.[A-Za-z_0-9]+)*)=", word)
    if match is None or os.path.lexists(word):
        return False
    # `flow=dis` is a slip, not a file: it is refused with a word on how options are written.
    return bool(match[2]) or match[1] in ("run", *ORDER, *renamed.STEPS)


def load(
    *,
    preset: str = "default",
    file: Path | None = None,
    overrides: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    uri: str,
) -> RunConfig:
    """Resolve the configuration of one source.

    Args:
        preset: Name of a preset; unused where `file` is given.
        file: A YAML file; it may build on a preset with `extends: NAME`.
        overrides: Words such as `depth.neighbors=4`, later ones win.
        options: The same by step, such as `{"depth": {"neighbors": 4}}`; they win over words.
        uri: The source, which settles `decode: {model: auto}`.

    Raises:
        UsageError: A preset, step, model, option or value is not allowed.
    """
    if file is not None:
        tree, name = _read(file), file.name
    else:
        known = presets()
        if preset not in known:
            raise UsageError(
                f"there is no preset '{preset}'; there are {', '.join(known)}"
                + did_you_mean(preset, known)
                + "; --config takes a file"
            )
        tree, name = _read(known[preset]), preset
    for word in overrides:
        _override(tree, word)
    for step, section in (options or {}).items():
        _check_step(step)
        _merge_into(tree, {step: _plain(_switched(section) if step == EXPORT else section)})
    return _resolve(tree, name, uri)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, which plain YAML would drop silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"'{key_node.value}' is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _yaml(text: str, where: str) -> Any:
    try:
        # _Loader derives from SafeLoader: it builds plain values only.
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = " ".join(str(error).split()) or "nested too deeply"
        raise UsageError(f"{where} is not valid YAML: {why}") from None


def _read(path: Path) -> Tree:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise UsageError(f"{path} is larger than 1 MiB: not a reel3d configuration")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"there is no configuration file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a configuration: {error}") from None
    tree = _yaml(text, str(path))
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise UsageError(f"{path} must map steps to options, such as 'depth: {{model: multiview}}'")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if base not in presets():
        raise UsageError(
            f"{path}: extends must name a preset, got '{base}'; there are {', '.join(presets())}"
        )
    return _merge(_read(presets()[base]), tree)


def _merge(base: Tree, top: Tree) -> Tree:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if not (isinstance(below, dict) and isinstance(value, dict)):
            merged[key] = value
        elif value.get("model", below.get("model")) != below.get("model"):
            # Options of another model mean nothing to this one.
            merged[key] = value
        else:
            merged[key] = _merge(below, value)
    return merged


def _override(tree: Tree, word: str) -> None:
    path, _, text = word.partition("=")
    step, *keys = path.split(".")
    _check_step(step)
    value = _yaml(text, f"the value of {path}")
    if step == EXPORT and len(keys) == 1:
        if value is not True and value not in OFF:
            raise UsageError(f"{word}: a format is switched with =on or =none")
        _merge_into(tree, {EXPORT: {keys[0]: {} if value is True else "none"}})
        return
    if len(keys) != (2 if step == EXPORT else 1):
        want = "export.<format>.<option>" if step == EXPORT else f"{step}.<option>"
        raise UsageError(f"{word}: an option is written {want}=value")
    leaf: Any = value
    for key in reversed(keys):
        leaf = {key: leaf}
    _merge_into(tree, {step: leaf})


def _merge_into(tree: Tree, top: Tree) -> None:
    merged = _merge(tree, top)
    tree.clear()
    tree.update(merged)


def _switched(section: Any) -> Any:
    """Return the formats of `export`, with True and False as a file says them."""
    if not isinstance(section, Mapping):
        return section
    for name, value in section.items():
        if value is None:
            raise UsageError(f"export.{name} = None is not allowed; it should be True or False")
    return {name: {} if value is True else value for name, value in section.items()}


def _plain(value: Any) -> Any:
    """Return what Python passes as YAML would hold it: paths as text, mappings as dicts."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value


def _check_step(step: str) -> None:
    renamed.check_step(step)
    known = ("run", *ORDER)
    if step not in known:
        raise UsageError(
            f"there is no step '{step}'; the steps are {', '.join(known)}"
            + did_you_mean(step, known)
        )


def _resolve(tree: Tree, name: str, uri: str) -> RunConfig:
    for step in tree:
        _check_step(step)
    choices: list[Choice] = []
    for step in ORDER:
        section: Any = tree.get(step)
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise UsageError(f"{step} must hold options, got {section!r}; such as {step}.model=…")
        if step == EXPORT:
            for model, values in section.items():
                if values in OFF:
                    continue
                choices.append(_choice(step, str(model), {} if values is None else values))
            continue
        values = dict(section)
        model = values.pop("model", None)
        if model is None:
            raise UsageError(f"{step} has no model; set {step}.model to {', '.join(models(step))}")
        if model == "none":
            continue
        if step == "decode" and model == "auto":
            model = _decoder(uri)
        choices.append(_choice(step, str(model), values))
    run = _validated(RunOptions, tree.get("run") or {}, "run")
    return RunConfig(preset=name, run=run, choices=tuple(choices))


def _decoder(uri: str) -> str:
    """Settle `auto`: by the address, or pictures for a folder, a pattern or a picture."""
    if "://" in uri:
        return "rtsp" if uri.lower().startswith(("rtsp://", "rtsps://")) else "pyav"
    path = Path(uri)
    pattern = bool(re.search(r"[*?\[]", uri)) and not os.path.lexists(uri)
    return "images" if pattern or path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES else "pyav"


def _choice(step: str, model: str, values: Any) -> Choice:
    renamed.check_model(step, model)
    config = options_of(step, model)
    where = f"{step}.{model}" if step == EXPORT else step
    if not isinstance(values, Mapping):
        raise UsageError(f"{where} must hold options, got {values!r}")
    for option in values:
        renamed.check_option(step, str(option))
    return Choice(step, model, _validated(config, values, where))


def _validated(config: type[AnyOptions], values: Mapping[str, Any], where: str) -> AnyOptions:
    try:
        return config.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            model = () if where.startswith(("run", EXPORT)) else ("model",)
            known = (*model, *config.model_fields)
            raise UsageError(
                f"{where} has no option '{option}'; it has {', '.join(known) or 'none'}"
                + did_you_mean(option, known)
            ) from None
        message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        if not option:
            raise UsageError(f"{where}: {message}") from None
        got = f"{where}.{option} = {first['input']!r}"
        raise UsageError(f"{got} is not allowed; it should be {message}") from None


HEAD_DEADLINE_S = 120.0
"""How long the decoder may be silent before it counts as hung."""
