#!/usr/bin/env python3
"""The networks of the reach benchmark: their names and kinds, how they are made and called."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

SIZES = (64, 96, 128, 192, 224, 256, 299, 384, 448, 518)
SMALLEST = "atto zepto test femto pico nano xxs xxt tiny _t mini extra_small lite 18 small _s b0 0"
HYBRID = """vit swin deit beit cait coat convit crossvit davit edgenext efficientformer eva
    levit maxx maxvit maxxvit mixer mlp mobilevit mvit nest pit pvt sequencer tnt tresnet_v2
    twins visformer volo xcit gcvit focal hiera nextvit fastvit repvit tiny_vit samvit
    poolformer metaformer efficientvit shvit swiftformer mambaout naflex vision coatnet pe_
    vitamin deepseek caformer csatv2 cpubone lamhalo halo botnet bat_ gmixer gmlp resmlp
    flexivit""".split()
DETECTORS = ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "fcos", "ssd")
VIDEO = ("r3d", "mc3", "r2plus1d", "s3d", "mvit", "swin3d")
OTHER = "detection, segmentation, video, flow"
NOISE = 2**20 + 7  # a prime: no two filters are alike


def torchvision_names() -> Iterator[tuple[str, str]]:
    import torchvision

    models = torchvision.models
    rooms = (models.segmentation, models.detection, models.video, models.optical_flow)
    tasks = [f"torchvision:{name}" for room in rooms for name in models.list_models(module=room)]
    whole = [f"torchvision:{name}" for name in models.list_models(module=models)]
    for some in itertools.zip_longest(whole, tasks):
        for spec, kind in zip(some, ("torchvision CNN", OTHER), strict=True):
            if spec is not None:
                attention = spec.partition(":")[2].startswith(("vit", "swin", "maxvit"))
                yield spec, "torchvision attention" if attention and kind != OTHER else kind


def timm_names(each: int) -> Iterator[tuple[str, str]]:
    """The smallest members of every family, by what their names say; a round of families each."""
    import timm

    marks = SMALLEST.split()

    def size(name: str) -> tuple[int, int]:
        return next((i for i, mark in enumerate(marks) if mark in name), len(marks)), len(name)

    families = [m for m in timm.list_modules() if not m.startswith("_")]
    known = {family: sorted(timm.list_models(module=family), key=size) for family in families}
    for i in range(each):
        for family in families:
            if i < len(known[family]):
                name = known[family][i]
                hybrid = any(family.startswith(h) or name.startswith(h) for h in HYBRID)
                yield f"timm:{name}", "timm hybrids and ViT" if hybrid else "timm CNN"


def in_turn(*sources: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """One of each source in turn, so that a part of the sweep has something of everything."""
    for round_ in itertools.zip_longest(*sources):
        yield from (found for found in round_ if found is not None)


def build(spec: str, side: int | None = None) -> nn.Module:
    """The network, its weights noise; side: of the images, where its sizes are fixed."""
    source, _, name = spec.partition(":")
    torch.manual_seed(0)
    if source == "timm":
        import timm

        return timm.create_model(name, pretrained=False, **({"img_size": side} if side else {}))
    import torchvision

    extra: dict[str, Any] = {"image_size": side} if side else {}
    if name in ("googlenet", "inception_v3"):
        extra = {"init_weights": False}
    if name.startswith((*DETECTORS, "deeplab", "fcn", "lraspp")):
        extra["weights_backbone"] = None
    if name.startswith(DETECTORS) and "ssd" not in name:
        extra |= {"min_size": 128, "max_size": 128}  # images are resized to this
    if name.startswith("keypointrcnn"):  # noise finds as many as it may, and each costs 5 G MACs
        extra["box_detections_per_img"] = 10
    video = torchvision.models.video.mvit
    small = partial(video._mvit, spatial_size=(64, 64), temporal_size=8)

    def mvit(**options: Any) -> nn.Module:  # made for one size, which is an option of one of them
        return small(**{k: v for k, v in options.items() if not k.endswith("l_size")})

    with mock.patch.object(video, "_mvit", mvit):
        return torchvision.models.get_model(name, weights=None, **extra)


def parameters(spec: str) -> int:
    """How many there are, without making them where that is possible."""
    try:
        with torch.device("meta"):
            model = build(spec)
    except Exception:
        model = build(spec)  # its code asks for values
    return sum(p.numel() for p in model.parameters())


def made(spec: str) -> tuple[nn.Module, Any]:
    """A network in evaluation mode, and the smallest input found that it runs on."""
    name = spec.partition(":")[2]
    fixed: list[tuple[int | None, Any]] = []
    if spec.startswith("torchvision:"):
        if "raft" in name:
            fixed = [(None, (torch.randn(2, 3, 128, 128), torch.randn(2, 3, 128, 128)))]
        elif name.startswith(VIDEO):
            frames, side = (16, 224) if name.startswith("s3d") else (8, 64)
            fixed = [(None, (3, frames, side, side))]
        elif name.startswith(("vit_", "maxvit")):
            # its class tokens and windows are made for one size
            side = 224 if name.startswith("maxvit") else 56 if name.endswith("_14") else 128
            fixed = [(side if name.startswith("vit") else None, (3, side, side))]
    with quick_initialisation():
        if fixed:
            return build(spec, fixed[0][0]).eval(), fixed[0][1]
        model = build(spec).eval()
    if (found := _smallest(model, SIZES[:4])) is not None:
        return model, found
    for side in (128, 192):
        try:
            with quick_initialisation():
                small = build(spec, side).eval()
        except Exception:
            continue
        if (found := _smallest(small, (side,))) is not None:
            return small, found
    if (found := _smallest(model, SIZES[4:])) is not None:
        return model, found
    raise RuntimeError("runs on none of the sizes")


def _smallest(model: nn.Module, sides: tuple[int, ...]) -> tuple[int, ...] | None:
    for side in sides:
        x = torch.zeros(1, getattr(model, "in_chans", 3), side, side)
        try:
            with torch.no_grad():
                model(x)
        except Exception as error:
            del error
            continue
        return tuple(x.shape[1:])
    return None


@contextmanager
def quick_initialisation() -> Iterator[None]:
    """Weights are cut out of one piece of noise: drawing them takes longer than all that follows.

    What a network computes beside them, buffers and numbers, is what it is.
    """
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(0))

    def drawn(change: Callable[[Tensor, Any, Any], Tensor]) -> Callable[..., Tensor]:
        def fill(tensor: Tensor, a: float = 0, b: float = 1, **_: Any) -> Tensor:
            if tensor.is_meta or not tensor.numel():
                return tensor
            values = noise.repeat(tensor.numel() // NOISE + 1)[: tensor.numel()]
            with torch.no_grad():
                return tensor.copy_(change(values, a, b).view(tensor.shape))

        return fill

    def uniform(values: Tensor, low: float, high: float) -> Tensor:
        return values.clamp_(-2, 2).mul_((high - low) / 4).add_((high + low) / 2)

    def normal(values: Tensor, mean: float, std: float) -> Tensor:
        return values.mul_(std).add_(mean)

    ours: dict[str, Callable[..., Tensor]] = {
        "uniform_": drawn(uniform),
        "normal_": drawn(normal),
        "erfinv_": lambda tensor: tensor,
    }
    for name, change in ours.items():
        setattr(torch.Tensor, name, change)
    try:
        yield
    finally:
        for name in ours:
            delattr(torch.Tensor, name)


if __name__ == "__main__":
    for each in in_turn(torchvision_names(), timm_names(int(sys.argv[1]))):
        print(*each, sep="\t")
