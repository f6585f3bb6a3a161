"""Networks made ready for inference: the same answers, to float32's rounding, in less time.

What is constant now is multiplied into the convolutions: a batch normalization that learns no more
is a scale and a shift of each channel, and the branches of a RepVGG block are one convolution of
3x3 (Ding et al., CVPR 2021). On a CPU the matrices of linear layers are laid out for oneDNN, which
multiplies with all that the processor has; torch calls MKL, which on AMD's does without AVX-512.
Measured on one core of an EPYC: 215 GFLOP/s against 96; RT-DETR takes 0.7 of the time.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["fold", "pack"]

CALLED_IN_TURN = (
    ("conv", "norm"),
    ("convolution", "normalization"),
    ("out_conv2", "batch_norm"),
)
"""Names of transformers' convolutions and of the normalizations that follow them at once."""
SPELLED_OUT = ("FastGELUActivation", "NewGELUActivation")
"""transformers' GELUs with a tanh, in six passes, a third of ViViT's time; torch takes one."""
FROZEN_EPS = 1e-5
"""Of the `FrozenBatchNorm2d` of every DETR, which has it in its code."""

FEWEST_ROWS = 16
"""Rows that a linear layer multiplies at least; fewer are padded with zeros. With fewer, oneDNN and
MKL (depending on its settings) split one long sum among threads, which changes the last bits."""


def fold(network: torch.nn.Module) -> None:
    """Fold normalizations and branches into convolutions, put channels last, shorten GELUs.

    Args:
        network: In `eval` mode; changed in place. Its parameters have other names afterwards.
    """
    import torch

    modules = list(network.modules())
    parents = Counter(child for module in modules for child in module.children())
    for module in modules:
        chain = type(module).forward is torch.nn.Sequential.forward
        children = list(module.named_children())
        for (name, conv), (next_name, norm) in pairwise(children):
            in_turn = chain or (name, next_name) in CALLED_IN_TURN
            own = parents[conv] == 1
            if in_turn and own and isinstance(conv, torch.nn.Conv2d) and _is_batch_norm(norm):
                setattr(module, name, _with_norm(conv, norm))
                setattr(module, next_name, torch.nn.Identity())
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.lower().endswith("repvggblock"):
                setattr(module, name, torch.nn.Sequential(_one_branch(child), child.activation))
            elif type(child).__name__ in SPELLED_OUT:
                setattr(module, name, torch.nn.GELU("tanh"))
    if _bears_channels_last(network):
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)


def pack(network: torch.nn.Module) -> None:
    """Lay out the weights of linear layers and convolutions for oneDNN, on x86-64.

    Args:
        network: On the CPU, in float32; changed in place. Later changes of a layer's weight are not
            seen. It may be called from several threads.
    """
    import torch

    if not torch.backends.mkldnn.is_available() or platform.machine() not in ("x86_64", "AMD64"):
        return
    last = _bears_channels_last(network)
    layout = torch.channels_last if last else torch.contiguous_format
    for module in network.modules():
        if type(module) is torch.nn.Linear:
            module.forward = _multiplied(module)
        elif type(module) is torch.nn.Conv2d and _pads_with_zeros(module):
            module.forward = _convolved(module, layout)


def _multiplied(linear: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what does a linear layer's work; the layer keeps its own weight, which others ask."""
    import torch

    # What torch's own compiler calls for a linear layer.
    onednn: Any = torch.ops.mkldnn
    weight, bias, width = linear.weight, linear.bias, linear.in_features
    packed = onednn._reorder_linear_weight(weight)

    def forward(input: torch.Tensor) -> torch.Tensor:
        if input.numel() == 0 or input.dtype != torch.float32:
            return torch.nn.functional.linear(input, weight, bias)
        rows = input.numel() // width
        if rows >= FEWEST_ROWS:
            return onednn._linear_pointwise(input, packed, bias, "none", [], "")
        padded = input.new_zeros(FEWEST_ROWS, width)
        padded[:rows] = input.reshape(rows, width)
        result = onednn._linear_pointwise(padded, packed, bias, "none", [], "")
        return result[:rows].reshape(*input.shape[:-1], linear.out_features)

    return forward


def _convolved(conv: torch.nn.Conv2d, layout: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what does a convolution's work on maps that lie in memory as `layout` says."""
    import torch

    onednn: Any = torch.ops.mkldnn
    padding = (0, 0) if conv.padding == "valid" else conv.padding
    sides = [list(one) for one in (padding, conv.stride, conv.dilation)]
    weight = conv.weight.to(memory_format=layout).to_mkldnn()
    packed = torch._C._nn.mkldnn_reorder_conv2d_weight(weight, *sides, conv.groups, None)

    def forward(input: torch.Tensor) -> torch.Tensor:
        if input.ndim != 4 or input.numel() == 0 or input.dtype != torch.float32:
            return torch.nn.Conv2d.forward(conv, input)
        laid = input.contiguous(memory_format=layout)
        return onednn._convolution_pointwise(
            laid, packed, conv.bias, *sides, conv.groups, "none", [], ""
        )

    return forward


def _pads_with_zeros(conv: torch.nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and conv.padding != "same"


def _bears_channels_last(network: torch.nn.Module) -> bool:
    """Return whether channels may lie last without loss.

    There torch's group normalization takes the variance from sums of squares, which costs digits
    (measured: Grounding DINO's scores are off by 4e-4 instead of 2e-5).
    """
    import torch

    return not any(isinstance(module, torch.nn.GroupNorm) for module in network.modules())


def _is_batch_norm(module: Any) -> bool:
    import torch

    frozen = type(module).__name__.endswith("FrozenBatchNorm2d")
    return frozen or (isinstance(module, torch.nn.BatchNorm2d) and module.track_running_stats)


def _scale_and_shift(norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a normalization does to each channel, float64."""
    deviation = (norm.running_var.double() + getattr(norm, "eps", FROZEN_EPS)).sqrt()
    scale = norm.weight.double() / deviation
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _with_norm(conv: Any, norm: Any) -> Any:
    """Return the convolution that does the work of both."""
    scale, shift = _scale_and_shift(norm)
    bias = shift if conv.bias is None else shift + conv.bias.double() * scale
    return _convolution(conv, conv.weight.double() * scale[:, None, None, None], bias)


def _one_branch(block: Any) -> Any:
    """Return the convolution that does the work of a RepVGG block, its activation excepted."""
    import torch

    wide, narrow = block.conv1.conv, block.conv2.conv
    weight, bias = wide.weight.double(), wide.bias.double() + narrow.bias.double()
    weight[:, :, 1:2, 1:2] += narrow.weight.double()
    identity = getattr(block, "identity", None)
    if identity is not None:
        scale, shift = _scale_and_shift(identity)
        weight[:, :, 1, 1] += torch.diag(scale)
        bias += shift
    return _convolution(wide, weight, bias)


def _convolution(like: Any, weight: torch.Tensor, bias: torch.Tensor) -> Any:
    import torch

    made = torch.nn.utils.skip_init(
        torch.nn.Conv2d,
        like.in_channels,
        like.out_channels,
        like.kernel_size,
        stride=like.stride,
        padding=like.padding,
        dilation=like.dilation,
        groups=like.groups,
        padding_mode=like.padding_mode,
        device=like.weight.device,
        dtype=like.weight.dtype,
    )
    made.weight.data.copy_(weight)
    made.bias.data.copy_(bias)
    return made.eval().requires_grad_(False)
