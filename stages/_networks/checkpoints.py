"""Networks of transformers: found by a checkpoint's own configuration, loaded whole or not at all.

The class comes from transformers' Auto classes and the preparation of its input from the
checkpoint's own processor, so that a network never sees pictures that were made ready for another.
Nothing that a checkpoint brings is run as code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from pipeline.contract import Options, Resources
from pipeline.errors import UsageError, require
from pipeline.weights import Checkpoint, Weights, list_faults, one_line, read_tensors
from stages._networks.inference import fold, pack

__all__ = [
    "LearnedOptions",
    "check_device",
    "check_finite",
    "check_task",
    "configuration",
    "device_of",
    "load",
    "processor",
    "resources_of",
]


class LearnedOptions(Options):
    """What holds for every stage with a network of transformers."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where one is")
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="of the network, on a GPU"
    )
    batch: int = Field(
        0, ge=0, le=256, description="inputs at a time; 0: 8 on a GPU, 1 a thread on a CPU"
    )
    gpus: float = Field(0.25, gt=0, le=1, description="share of a GPU that one worker takes")
    compiled: bool = Field(False, description="torch.compile: slow to begin with, faster after it")


def device_of(wanted: str) -> str:
    """Return where a network runs, as torch names it: `auto` is a GPU where there is one."""
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resources_of(options: LearnedOptions, nbytes: int) -> Resources:
    """Return what a worker with weights of so many bytes needs."""
    if device_of(options.device) == "cuda":
        return Resources(cpus=1, gpus=options.gpus, memory_bytes=2_000_000_000)
    return Resources(cpus=1, memory_bytes=500_000_000 + 3 * nbytes)


def check_device(step: str, device: str, precision: str) -> None:
    """See that a network can run where and how it is asked to.

    Raises:
        UsageError: There is no such device, or it does not do this precision.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"{step}.device=cuda: there is no CUDA device; take cpu or auto")
    if precision != "float32" and device == "cpu":
        raise UsageError(f"{step}.precision={precision} needs a GPU; on the CPU it is float32")


def check_finite(network: Any, weights: Weights) -> None:
    """See that a network is made of numbers: with others it sees nothing, and does not say why.

    Raises:
        UsageError: Some of its tensors hold NaN or infinity.
    """
    import torch

    wrong = [n for n, t in network.state_dict().items() if not torch.isfinite(t).all()]
    if wrong:
        raise UsageError(
            f"{weights.id} holds values that are not finite ({list_faults({'spoilt': wrong})}); "
            "fetch or save it again"
        )


def configuration(weights: Checkpoint) -> dict[str, Any]:
    """Return `config.json`.

    Raises:
        UsageError: It is no such file.
    """
    path = weights.path / "config.json"
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {one_line(error)}; fetch it again") from None
    if not isinstance(read, dict) or not isinstance(read.get("model_type"), str):
        raise UsageError(f"{path} names no model_type; it is no checkpoint of transformers")
    return read


def check_task(auto: str, weights: Checkpoint, task: str, kinds: tuple[str, ...] = ()) -> None:
    """Refuse what was saved for another task: its head would be made up of random numbers.

    Args:
        auto: The Auto class of transformers that stands for the task.
        weights: A checkpoint on this machine.
        task: For the message.
        kinds: The model types that will do, where the Auto class stands for more than the task.

    Raises:
        UsageError: It was.
    """
    # The names only: the mapping itself would import every network that there is.
    by_type: Mapping[str, Any] = getattr(_transformers(), auto)._model_mapping._model_mapping
    told = configuration(weights)
    kind, saved = told["model_type"], told.get("architectures") or []
    allowed = kinds or tuple(sorted(by_type))
    if kind not in allowed:
        raise UsageError(
            f"{weights.id} is a {kind}, which is not for {task}; allowed are {', '.join(allowed)}"
        )
    fitting = by_type[kind]
    names = list(fitting) if isinstance(fitting, list | tuple) else [fitting]
    if saved and not set(saved) & set(names):
        raise UsageError(
            f"{weights.id} was saved as {', '.join(map(str, saved))}, which is not for {task}: it "
            f"must be {' or '.join(names)}"
        )


def load(
    auto: str,
    weights: Checkpoint,
    options: LearnedOptions,
    *,
    step: str,
    task: str,
    kinds: tuple[str, ...] = (),
    threads: int = 1,
    busy: str = "",
) -> Any:
    """Return the network of a checkpoint, ready for inference on its device.

    Args:
        auto: An Auto class of transformers, such as `AutoModelForDepthEstimation`.
        weights: The checkpoint, on this machine.
        options: Of the stage.
        step: Of the stage, for messages.
        task: What the network must do, for messages, such as `depth estimation`.
        kinds: As for `check_task`.
        threads: Of torch on a CPU. More than one changes the last bits of some convolutions, and a
            run must not depend on them; of transformers alone it does not.
        busy: The part of the network that does the work, where that is not its `forward`.

    Raises:
        UsageError: The checkpoint is for another task, damaged, not whole, or no such device.
    """
    transformers = _transformers()
    import torch

    device = device_of(options.device)
    check_device(step, device, options.precision)
    check_task(auto, weights, task, kinds)
    if any(file.suffix == ".bin" for file in weights.files):
        for file in weights.files:
            read_tensors(file)
    try:
        network, told = getattr(transformers, auto).from_pretrained(
            str(weights.path),
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=getattr(torch, options.precision),
        )
    except Exception as error:
        raise UsageError(
            f"{weights.id} cannot be read ({one_line(error)}); it may be damaged or truncated: "
            "fetch or save it again"
        ) from None
    _check_complete(told, weights, type(network).__name__)
    network = network.eval().requires_grad_(False).to(device)
    fold(network)
    if device == "cpu":
        torch.set_num_threads(threads)
    if options.compiled:
        network.get_submodule(busy).compile()
    elif device == "cpu":
        pack(network)
    return network


def processor(auto: str, weights: Checkpoint, **options: Any) -> Any:
    """Return what makes a checkpoint's input ready, as the checkpoint itself says.

    Args:
        auto: An Auto class of transformers, such as `AutoVideoProcessor`.
        weights: The checkpoint.
        options: For `from_pretrained`.

    Raises:
        UsageError: The checkpoint does not say.
    """
    try:
        return getattr(_transformers(), auto).from_pretrained(
            str(weights.path), local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:
        raise UsageError(
            f"{weights.id} does not say how its input is prepared ({one_line(error)}); it needs "
            "the preprocessor_config.json (and tokenizer) that belong to it"
        ) from None


def _transformers() -> Any:
    transformers = require("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _check_complete(told: Mapping[str, Any], weights: Checkpoint, name: str) -> None:
    faults = {
        "missing": sorted(told.get("missing_keys") or ()),
        "of another shape": sorted(key[0] for key in told.get("mismatched_keys") or ()),
        "not part of it": sorted(told.get("unexpected_keys") or ()),
    }
    found = list_faults(faults)
    if found:
        raise UsageError(
            f"{weights.id} does not hold the weights of {name}: {found}; fetch or save it again"
        )
