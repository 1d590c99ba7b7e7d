"""A whole network as the teacher of a slim one's feature maps, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import UserError

AUTO, NONE = "auto", "none"


def map_loss(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    maps: str = AUTO,
    temperature: float = 4.0,
) -> Tensor:
    """How far a student's feature maps are from its teacher's, as `recorded` has them.

    maps: modules by glob patterns ("backbone.*,neck"), or auto: the last of each resolution. Where
    the cut has left a map its width, channel by channel (`channel_wise`), elsewhere by where in the
    image it is large (`attention`). A mean over the maps. UserError where there are none.
    """
    losses = []
    for name in _chosen(theirs, maps):
        if name not in ours or ours[name].shape[2:] != theirs[name].shape[2:]:
            continue
        found, wanted = ours[name].float(), theirs[name].detach().float()
        same = found.shape[1] == wanted.shape[1]
        losses.append(
            channel_wise(found, wanted, temperature) if same else attention(found, wanted)
        )
    if not losses:
        raise UserError(
            f"distill_maps {maps}: no module of that name gives a feature map [N, C, H, W]; "
            "name some (patterns, as backbone.*), or auto"
        )
    return torch.stack(losses).mean()


def channel_wise(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """T² · KL of each channel's softmax over its places, a mean over images and channels.

    ours, theirs: [N, C, H, W]. Shu et al., Channel-wise knowledge distillation for dense prediction
    (ICCV 2021), equations 4 and 5.
    """
    log = F.log_softmax(ours.flatten(2) / temperature, 2)
    target = F.log_softmax(theirs.flatten(2) / temperature, 2)
    divergence = F.kl_div(log, target, reduction="none", log_target=True).sum(2)
    return temperature**2 * divergence.mean()


def attention(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared distance of the maps' energies over places, each of norm 1; a mean over images.

    ours: [N, C, H, W], theirs: [N, D, H, W], of any widths. Zagoruyko and Komodakis, Paying more
    attention to attention (ICLR 2017), equation 2 with sums of squares.
    """
    energies = [F.normalize(maps.square().mean(1).flatten(1)) for maps in (ours, theirs)]
    return (energies[0] - energies[1]).square().sum(1).mean()


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within, the last feature map [N, C, H, W] of each module, in the order of their ends."""
    maps: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point():
                maps.pop(name, None)
                maps[name] = output

        return keep

    handles = [
        module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _chosen(maps: Mapping[str, Tensor], wanted: str) -> list[str]:
    if wanted != AUTO:
        patterns = [each.strip() for each in wanted.split(",")]
        return [name for name in maps if any(fnmatchcase(name, each) for each in patterns)]
    last = {tuple(found.shape[2:]): name for name, found in maps.items()}
    return [name for size, name in last.items() if size != (1, 1)]
