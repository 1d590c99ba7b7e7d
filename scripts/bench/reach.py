"""How far channel tracing reaches: networks of torchvision and timm, cut and compared.

Each network runs in a process of its own with a time limit. For each: whether the cut network is
exact, whether the costs are torch's own, one training step, save and load, the least MACs, and
torch-pruning with its defaults beside it. Results are JSON lines in --out; networks that are in it
already are left out, so a sweep can be run in parts. --table prints them as Markdown.

python scripts/bench/reach.py --out reach.jsonl [--only PATTERN] [--limit 120] [--minutes 10]
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pruning
from pruning.errors import UserError
from pruning.graph import named_tensors, twin
from pruning.graph.surgery import cut, resize, set_numbers
from pruning.graph.tracing.inputs import inputs_of
from pruning.graph.tracing.tracer import check

SIZES = (64, 96, 128, 224, 256, 299, 384, 518)
SMALLEST = "atto zepto test femto pico nano xxs xxt tiny _t mini extra_small lite 18 small _s b0 0"
HYBRID = """vit swin deit beit cait coat convit crossvit davit edgenext efficientformer eva levit
    maxx max mixer mlp mobilevit mvit nest pit pvt sequencer tnt tresnet_v2 twins visformer volo
    xcit gcvit focal hiera nextvit fastvit repvit tiny_vit samvit poolformer metaformer efficientvit
    shvit swiftformer mambaout naflex vision fasternet_attn""".split()


def torchvision_names() -> Iterator[tuple[str, str]]:
    import torchvision

    models = torchvision.models
    kinds = {
        models: "classification",
        models.segmentation: "segmentation",
        models.detection: "detection",
        models.video: "video",
        models.optical_flow: "flow",
    }
    for module, kind in kinds.items():
        for name in models.list_models(module=module):
            if kind == "classification":
                attention = name.startswith(("vit", "swin", "maxvit"))
                kind_of = "torchvision attention" if attention else "torchvision CNN"
            else:
                kind_of = "detection, segmentation, video, flow"
            yield f"torchvision:{name}", kind_of


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


def build(spec: str) -> nn.Module:
    source, _, name = spec.partition(":")
    torch.manual_seed(0)
    if source == "timm":
        import timm

        return timm.create_model(name, pretrained=False)
    import torchvision

    extra = {}
    if name in ("googlenet", "inception_v3"):
        extra = {"init_weights": False}
    if "rcnn" in name or "retina" in name or "fcos" in name or "ssd" in name or "keypoint" in name:
        extra = {"weights_backbone": None}
    if name.startswith(("deeplab", "fcn", "lraspp")):
        extra = {"weights_backbone": None}
    return torchvision.models.get_model(name, weights=None, **extra)


def example_of(spec: str, model: nn.Module) -> Any:
    """The smallest input that the network runs on."""
    name = spec.partition(":")[2]
    if "raft" in name:
        return (torch.randn(2, 3, 128, 128), torch.randn(2, 3, 128, 128))
    if spec.startswith("torchvision:") and any(
        name.startswith(v) for v in ("r3d", "mc3", "r2plus1d", "s3d", "mvit", "swin3d")
    ):
        frames, side = (16, 224) if name.startswith(("mvit", "s3d")) else (8, 64)
        return (3, frames, side, side)
    for size in SIZES:
        x = torch.zeros(2, getattr(model, "in_chans", 3), size, size)
        try:
            with torch.no_grad():
                model.eval()(x)
        except Exception:
            continue
        return tuple(x.shape[1:])
    raise RuntimeError("runs on none of the sizes")


def counted(model: nn.Module, example: Any) -> float:
    """MACs for one image by torch's own counter."""
    torch.backends.mha.set_fastpath_enabled(False)
    inputs = inputs_of(model, example, images=1)
    tensors = {name: t.detach() for name, t in named_tensors(model).items()}
    shapes = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    # shapes are all that counts, unless the code asks for values
    # torch's counter watches gradients where there are any
    frozen = twin(model, tensors).requires_grad_(False)
    for net, device in ((twin(frozen, shapes), "meta"), (frozen, "cpu")):
        args, kwargs = inputs.on(device)
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                net.eval()(*args, **kwargs)
        except Exception:
            if device == "cpu":
                raise
            continue
        break
    return counter.get_total_flops() / 2 / inputs.images


def loss_of(value: Any) -> Tensor:
    from pruning.graph.tracing import tensors_in

    return torch.stack(
        [t.float().square().mean() for t in tensors_in(value) if t.requires_grad]
    ).sum()


def ours(spec: str, model: nn.Module, example: Any) -> dict[str, Any]:
    before = {name: t.clone() for name, t in model.state_dict().items()}
    row: dict[str, Any] = {}
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        began = time.process_time()
        graph = pruning.trace(model, example)
        row["trace_s"] = round(time.process_time() - began, 2)
    row["uncounted"] = list(graph.uncounted)
    after = model.state_dict()
    row["untouched"] = before.keys() == after.keys() and all(
        torch.equal(before[n], after[n]) or before[n].isnan().any() for n in before
    )
    cost = pruning.Cost(graph)
    lattice = pruning.lattice(graph)
    row["groups"] = len(graph.groups)
    row["fixed"] = len(graph.fixed)
    row["layers"] = len(graph.layers)
    row["least"] = cost.macs(lattice.low) / max(cost.base_macs, 1)
    row["whole"] = not [
        name for name, why in graph.fixed.items() if why not in ("output of the network",)
    ]
    row["exact"] = check(model, graph, example, seed=1) is None
    row["cost_whole"] = cost.base_macs / counted(model, example)
    half = lattice.snap(graph.widths * 0.5)
    rng = np.random.default_rng(3)
    keep = tuple(
        np.sort(rng.permutation(group.units)[: max(1, int(w) // group.granularity)])
        for group, w in zip(graph.groups, half, strict=True)
    )
    slim = cut(model, graph, keep)
    row["cost_cut"] = cost.macs(half) / counted(slim, example)
    row["trains"] = trains(slim, example)
    row["loads"] = loads(spec, slim, example)
    return row


def trains(slim: nn.Module, example: Any) -> bool:
    slim.train()
    args, kwargs = inputs_of(slim, example, images=2).random(None).on("cpu")
    try:
        loss_of(slim(*args, **kwargs)).backward()
    except (ValueError, AssertionError, RuntimeError) as error:
        if "arget" not in str(error) and "more than 1 value" not in str(error):
            raise
        loss_of(slim.eval()(*args, **kwargs)).backward()
    return all(p.grad is None or bool(p.grad.isfinite().all()) for p in slim.parameters())


def loads(spec: str, slim: nn.Module, example: Any) -> bool:
    state = {name: t.clone() for name, t in slim.state_dict().items()}
    again = set_numbers(resize(build(spec), state), vars(slim).get("adapted", {})).eval()
    for name in vars(slim).get("cut_buffers", ()):
        path, _, leaf = name.rpartition(".")
        again.get_submodule(path)._buffers[leaf] = slim.get_buffer(name)
    from pruning.graph.tracing import tensors_in

    args, kwargs = inputs_of(slim, example, images=1).random(None).on("cpu")
    with torch.no_grad():
        a, b = again(*args, **kwargs), slim.eval()(*args, **kwargs)
    return all(torch.equal(x, y) for x, y in zip(tensors_in(a), tensors_in(b), strict=True))


def theirs(model: nn.Module, example: Any) -> str:
    """torch-pruning's MagnitudePruner with its defaults, half the channels, the outputs left."""
    import torch_pruning as tp

    args, kwargs = inputs_of(model, example, images=1).random(None).on("cpu")
    x = kwargs or (args[0] if len(args) == 1 else args)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    out = model.eval()(*args, **kwargs)
    shape = getattr(out, "shape", None)
    last = [m for m in layers if getattr(m, "out_features", None) in (1000, 21)] or layers[-1:]
    pruner = tp.pruner.MagnitudePruner(
        model,
        x,
        importance=tp.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=last,
    )
    pruner.step()
    with torch.no_grad():
        out = model(*args, **kwargs)
    return "works" if getattr(out, "shape", None) == shape else "wrong shape"


def in_process(job: Callable[[], dict[str, Any]], limit: float) -> dict[str, Any]:
    """The job's result from a process of its own; {"error": …} if it failed or took too long.

    limit: seconds of one core.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_CPU, (round(limit), round(limit)))
        try:
            found = job()
        except UserError as error:
            found = {"error": f"UserError: {error}"}
        except BaseException as error:
            found = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        os.write(write, json.dumps(found).encode())
        os._exit(0)
    os.close(write)
    began, data = time.monotonic(), b""
    os.set_blocking(read, False)
    while True:
        try:
            part = os.read(read, 1 << 16)
            data += part
            if not part:
                break
        except BlockingIOError:
            time.sleep(0.05)
        if time.monotonic() - began > 10 * limit:
            os.kill(child, signal.SIGKILL)
            data = b'{"error": "timeout"}'
            break
    os.waitpid(child, 0)
    os.close(read)
    return json.loads(data or b'{"error": "timeout"}')


def parameters(spec: str) -> dict[str, Any]:
    """How many there are, without making them."""
    try:
        with torch.device("meta"):
            model = build(spec)
    except Exception:
        model = build(spec)  # its code asks for values
    return {"parameters": sum(p.numel() for p in model.parameters())}


def one(spec: str, limit: float, peer: bool, most: float) -> dict[str, Any]:
    size = in_process(lambda: parameters(spec), limit).get("parameters", 0)
    if size > most * 1e6:
        return {"skipped": f"{size / 1e6:.0f} M parameters"}

    def mine() -> dict[str, Any]:
        model = build(spec).eval()
        return ours(spec, model, example_of(spec, model))

    def other() -> dict[str, Any]:
        model = build(spec).eval()
        return {"peer": theirs(model, example_of(spec, model))}

    row = in_process(mine, limit)
    if peer:
        row["peer"] = in_process(other, limit).get("peer", "crash")
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each kind of networks."""
    lines = [
        "| | n | whole | partly | unchanged | wrong | raw error | least MACs ≤ 50 % | MACs within"
        " 0.1 % | trains | loads | trace s, median / worst | torch-pruning works / wrong / crash |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [row for row in rows if "skipped" not in row]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        ran = [row for row in own if "error" not in row]
        good = [row for row in ran if row["exact"]]
        close = [r for r in ran if all(abs(r[k] - 1) < 1e-3 for k in ("cost_whole", "cost_cut"))]
        peers = [sum(r.get("peer") == w for r in own) for w in ("works", "wrong shape", "crash")]
        seconds = [row["trace_s"] for row in ran] or [0.0]
        cells: list[Any] = [
            kind,
            len(own),
            sum(row["whole"] for row in good),
            sum(bool(row["groups"]) and not row["whole"] for row in good),
            sum(not row["groups"] for row in good),
            len(ran) - len(good),
            len(own) - len(ran),
            sum(row["least"] <= 0.5 for row in good),
            len(close),
            sum(row["trains"] for row in ran),
            sum(row["loads"] for row in ran),
            f"{statistics.median(seconds):.2f} / {max(seconds):.1f}",
            " / ".join(map(str, peers)),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "reach.jsonl")
    parser.add_argument("--only", default="*", help="glob pattern of names")
    parser.add_argument("--each", type=int, default=3, help="networks of each timm family")
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds of one core for a network"
    )
    parser.add_argument("--most", type=float, default=150, help="parameters in millions")
    parser.add_argument("--minutes", type=float, default=1e9, help="start none after so long")
    parser.add_argument("--no-peer", action="store_true", help="without torch-pruning")
    parser.add_argument("--table", action="store_true", help="print what --out holds")
    options = parser.parse_args()
    rows = (
        [json.loads(line) for line in options.out.read_text().splitlines()]
        if options.out.exists()
        else []
    )
    if options.table:
        print(table(rows))
        return
    torch.set_num_threads(1)
    for name in pruning.__all__:
        getattr(pruning, name)  # loaded before processes fork
    done = {row["name"] for row in rows}
    began = time.monotonic()
    for spec, kind in in_turn(torchvision_names(), timm_names(options.each)):
        if spec in done or not fnmatch.fnmatch(spec, options.only):
            continue
        if time.monotonic() - began > 60 * options.minutes:
            break
        row = {
            "name": spec,
            "kind": kind,
            **one(spec, options.limit, not options.no_peer, options.most),
        }
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr)


if __name__ == "__main__":
    main()
