"""A search as a user writes it today: Optuna proposes a ratio for each layer, Ray Tune runs it.

Torch-Pruning cuts by group L2; each trial trains for some CPU seconds with the base as its teacher.
Each network that a trial leaves is a whole module on disk, as its cut layers have no name.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peers_tools import macs, train
from torch import nn

from pruning.training import evaluate, recalibrate


def trial(config: dict[str, Any], place: str, setup: dict[str, Any]) -> dict[str, float]:
    """Cut, train and score one network; it is saved under its MACs."""
    import torch_pruning as tp
    import trained

    torch.set_num_threads(1)
    base = trained.load(setup["network"], setup["weights"], setup["data"])
    held = base.few(setup["images"] + setup["val"])
    net = copy.deepcopy(base.net)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    ratios = {layer: config[f"layer{i}"] for i, layer in enumerate(convolutions)}
    example = torch.zeros(1, *base.train.shape)
    pruner = tp.pruner.BasePruner(
        net,
        example,
        tp.importance.GroupMagnitudeImportance(),
        pruning_ratio_dict=ratios,
        ignored_layers=[m for m in net.modules() if isinstance(m, nn.Linear)],
    )
    pruner.step()
    recalibrate(net, held.subset(slice(0, setup["images"])).batches(256))
    train(net, base.train, base.net, setup["trial_seconds"], 0, setup["recipe"])
    share = macs(net, example) / macs(base.net, example)
    torch.save(net, Path(place) / f"{share:.6f}.pt")
    top1 = evaluate(net, held.subset(slice(setup["images"], None)).batches(500))
    return {"macs": share, "top1": top1}


def search(setup: dict[str, Any], layers: int, trials: int, place: Path) -> list[dict[str, float]]:
    """MACs and validation accuracy of every trial."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        space = {f"layer{i}": tune.uniform(0.0, 0.9) for i in range(layers)}
        tuner = tune.Tuner(
            tune.with_resources(lambda config: trial(config, str(place), setup), {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                num_samples=trials,
                search_alg=OptunaSearch(metric=["macs", "top1"], mode=["min", "max"], seed=0),
            ),
        )
        results = tuner.fit()
        done = [results[i].metrics or {} for i in range(len(results)) if not results[i].error]
    finally:
        ray.shutdown()
    return [{"macs": each["macs"], "top1": each["top1"]} for each in done]
