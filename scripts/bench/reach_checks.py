"""What the reach benchmark asks of one network: is it cut exactly, counted, trained, loaded?"""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pruning
from pruning.graph import named_tensors, tensors_in, twin
from pruning.graph.surgery import cut
from pruning.graph.tracing.inputs import inputs_of
from pruning.graph.tracing.tracer import check

OUTPUT = "output of the network"


def ours(model: nn.Module, example: Any) -> dict[str, Any]:
    """The benchmark's columns for one network; the cut is to half of every group, at random."""
    before = everything(model)
    row: dict[str, Any] = {}
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        began = time.process_time()
        graph = pruning.trace(model, example)
        row["trace_s"] = round(time.process_time() - began, 2)
    row["uncounted"] = list(graph.uncounted)
    row["untouched"] = same(before, everything(model))
    cost, lattice = pruning.Cost(graph), pruning.lattice(graph)
    row |= {"groups": len(graph.groups), "fixed": len(graph.fixed), "layers": len(graph.layers)}
    row["reasons"] = reasons(graph)
    row["least"] = cost.macs(lattice.low) / max(cost.base_macs, 1)
    row["whole"] = not [name for name, why in graph.fixed.items() if why != OUTPUT]
    wrong = check(model, graph, example, seed=1)
    row["exact"] = wrong is None
    if wrong is not None:
        row["wrong"] = wrong.why
    row["macs"] = cost.base_macs
    row["cost_whole"] = cost.base_macs / counted(model, example)
    half = lattice.snap(graph.widths * 0.5)
    rng = np.random.default_rng(3)
    keep = tuple(
        np.sort(rng.permutation(group.units)[: max(1, int(w) // group.granularity)])
        for group, w in zip(graph.groups, half, strict=True)
    )
    slim = cut(model, graph, keep)
    row["cost_cut"] = cost.macs(half) / counted(slim, example)
    row["varies"] = abs(row["cost_cut"] - 1) > 1e-3 and varies(slim, example)
    row["loads"] = loads(slim, model, example)
    row["trains"] = trains(slim, model, example)
    return row


def everything(model: nn.Module) -> dict[str, Any]:
    """All that can be seen of a network: tensors, flags, gradients and plain attributes."""
    tensors = {
        name: (id(t), t.device, t.requires_grad, t.grad is None, t._version, t.detach().clone())
        for name, t in named_tensors(model).items()
    }
    plain = {
        f"{path}.{key}": repr(value) if not isinstance(value, Tensor) else id(value)
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if not key.startswith("_") and not isinstance(value, nn.Module)
    }
    return {"tensors": tensors, "plain": plain}


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    if before["plain"] != after["plain"] or before["tensors"].keys() != after["tensors"].keys():
        return False
    for name, (*flags, value) in before["tensors"].items():
        *flags_after, value_after = after["tensors"][name]
        if flags != flags_after or not torch.equal(
            value.nan_to_num() if value.is_floating_point() else value,
            value_after.nan_to_num() if value.is_floating_point() else value_after,
        ):
            return False
    return True


def reasons(graph: pruning.ChannelGraph) -> dict[str, int]:
    """How many layers stay for which reason."""
    found: dict[str, int] = {}
    for why in graph.fixed.values():
        if why != OUTPUT:
            found[why] = found.get(why, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1])[:6])


def counted(model: nn.Module, example: Any) -> float:
    """MACs for one image by torch's own counter."""
    torch.backends.mha.set_fastpath_enabled(False)
    inputs = inputs_of(model, example, images=1)
    tensors = {name: t.detach() for name, t in named_tensors(model).items()}
    shapes = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    # shapes are all that counts, unless the code asks for values;
    # torch's counter watches gradients where there are any
    for held, device in ((shapes, "meta"), (tensors, "cpu")):
        net = twin(model, held).requires_grad_(False).eval()
        args, kwargs = inputs.on(device)
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                net(*args, **kwargs)
        except Exception:
            if device == "cpu":
                raise
            continue
        break
    return counter.get_total_flops() / 2 / inputs.images


def varies(model: nn.Module, example: Any) -> bool:
    """Whether other pixels make other MACs, as in a detector that looks closer at what it found."""
    shape = inputs_of(model, example, images=1).shape
    found = [counted(model, (torch.full((1, *shape), value),)) for value in (0.0, 1.0)]
    found.append(counted(model, (torch.randn(1, *shape),)))
    return max(found) / min(found) > 1 + 1e-3


def trains(slim: nn.Module, model: nn.Module, example: Any) -> bool:
    """Whether a step leaves finite gradients; in evaluation mode where the whole network cannot
    train on this input, as it wants targets, or larger images."""
    args, kwargs = inputs_of(slim, example, images=2).random(None).on("cpu")
    try:
        out = slim.train()(*args, **kwargs)
    except Exception:
        whole = twin(model, {n: t.clone() for n, t in named_tensors(model).items()})
        try:
            whole.train()(*args, **kwargs)
        except Exception:
            out = slim.eval()(*args, **kwargs)
        else:
            raise
    _loss(out).backward()
    return all(p.grad is None or bool(p.grad.isfinite().all()) for p in slim.parameters())


def _loss(value: Any) -> Tensor:
    parts = [t.float().square().mean() for t in tensors_in(value) if t.requires_grad]
    return torch.stack(parts).sum()


def loads(slim: nn.Module, model: nn.Module, example: Any) -> bool:
    """Whether a file gives the network back, bit by bit in what it computes."""
    inputs = inputs_of(slim, example, images=1)
    shape, numbers = inputs.shape, (0.5,) * inputs.shape[0]
    info = pruning.ModelInfo("mine", {}, shape, 0, numbers, numbers, {}, "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slim.safetensors"
        pruning.save(slim, path, info)
        again = (
            pruning.load(path, base=model)
            if len(inputs.args) == 1
            else _filled(slim, model)  # load tries the network on one input
        )
    args, kwargs = inputs.random(None).on("cpu")
    with torch.no_grad():
        a, b = again(*args, **kwargs), slim.eval()(*args, **kwargs)
    return all(torch.equal(x, y) for x, y in zip(tensors_in(a), tensors_in(b), strict=True))


def _filled(slim: nn.Module, model: nn.Module) -> nn.Module:
    from pruning.graph.surgery import resize, set_numbers

    skeleton = resize(twin(model, named_tensors(model)), slim.state_dict())
    return set_numbers(skeleton, vars(slim).get("adapted", {})).eval()


def theirs(model: nn.Module, example: Any) -> dict[str, Any]:
    """torch-pruning's MagnitudePruner with its defaults, half the channels, the outputs left."""
    import torch_pruning as tp

    args, kwargs = inputs_of(model, example, images=1).random(None).on("cpu")
    x = kwargs or (args[0] if len(args) == 1 else args)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        shapes = [t.shape for t in tensors_in(model(*args, **kwargs))]
    last = [m for m in layers if getattr(m, "out_features", None) in (1000, 400, 21)] or layers[-1:]
    began = time.process_time()
    pruner = tp.pruner.MagnitudePruner(
        model,
        x,
        importance=tp.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=last,
    )
    pruner.step()
    seconds = round(time.process_time() - began, 2)
    with torch.no_grad():
        after = [t.shape for t in tensors_in(model(*args, **kwargs))]
    right = [s[1:] for s in shapes] == [s[1:] for s in after]
    return {"peer": "works" if right else "wrong shape", "peer_s": seconds}
