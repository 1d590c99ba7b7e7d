"""Every option of a search, with its unit and its default. Imports no torch: `--help` is instant.

jsonargparse makes the flags, the keys of YAML files and the help texts from these dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from search.config.recipe import RecipeConfig
from search.data import DataConfig

CLASSIFICATION, SEGMENTATION = "classification", "segmentation"
SCENES = ("scenes-segmentation", "scenes-detection")
NAMED = (CLASSIFICATION, SEGMENTATION, *SCENES)
"""Tasks that are made of `model` and `data`."""


@dataclass(frozen=True)
class ModelConfig:
    """The network to slim.

    Args:
        name: Which network: of the zoo (digits, resnet20, resnet56, vgg16_bn, …), torchvision:NAME,
            timm:NAME, or package.module:factory.
        weights: File or URI (s3://…) with trained weights: safetensors, or a state dict of
            torch.save (.pt, .pth); or torchvision:DEFAULT; null trains a base model as `base` says.
        args: Further arguments of the network's factory, as in {"num_classes": 100}.
        new_head: Where the weights have another number of outputs than the data needs, put a new
            last layer on them, and train the base model from there as `base` says (true or false).
        trust_factory: Allow package.module:factory, which runs that package's code (true or false);
            --trust_factory means the same.
    """

    name: str = "digits"
    weights: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    new_head: bool = False
    trust_factory: bool = False


@dataclass(frozen=True)
class SearchConfig:
    """How slim versions are proposed, pruned, stopped and kept.

    Args:
        cost: What is saved: macs (multiply-accumulates for one image), params (parameters) or
            latency (time of a batch, foretold as `latency` says). Proposals, the frontier, the
            hypervolume and early stopping go by it; the others are shown beside it.
        method: Pruning method: gain-curve, another method's name, a comma list of names, or all.
        proposal: What the sampler chooses: widths (a global ratio and bounded offsets), threshold
            (the method's own scalars), or mixed (each trial one of the two).
        offsets: Which widths move together: each group alone, a stage (groups at one resolution,
            residual streams apart from inner channels), none (uniform widths), or auto (stage
            beyond 20 groups, else group).
        offset_range: How far a width may lie from the global ratio, as a share of it (0.5: half to
            one and a half times).
        sampler: What proposes: ehvi (models the accuracy, takes the cost exactly, and tries what
            should add most hypervolume), or one of Optuna's; gp is slow beyond 20 parameters.
            Where proposal is not widths, ehvi means tpe.
        min_ratio: Fewest channels of a group that may stay, as a share of its channels (0 to 1).
        keep: Layers, groups or modules whose channels all stay, as glob patterns with commas
            between: "stem.*,layer4"; "layer4:in" keeps what it reads, too.
        min_width: Fewest channels by such patterns, as shares or numbers: {"stem.*": 0.5}.
        max_macs: Most MACs for one image: "60%" of the base model, "60M", "1.2G" or a plain number;
            null is no limit.
        min_macs: Fewest MACs for one image, written like max_macs; null is no limit.
        max_params: Most parameters, written like max_macs; null is no limit.
        max_latency_ms: Longest time for one batch, in ms or as "60%" of the base model's, foretold
            as `latency` says; null is no limit.
        divisor: Widths are multiples of this; auto leaves at least eight steps a group (16
            channels: 2, 32: 4, 64 and more: 8), and where latency is saved follows the widths at
            which time falls.
        repair: What is done to the weights that stay: none, compensate (least squares), feedback
            (layer by layer, undoing the errors of earlier cuts), or auto (what belongs to the
            method). BN is always re-estimated.
        seeds: Begin with the base model, uniform widths and the gain-curve path over the range, and
            the one-shot allocations of the methods searched (true or false).
        stratify: Aim some proposals at the part of the range of costs with the fewest trials (true
            or false).
        parents: Begin a trial with the nearest larger network that the run has trained, in place of
            the base model, and a final training with its trial's weights (true or false).
        early_stopping: off, or mo-asha: after a ninth and a third of the epochs, one trial of three
            goes on among those of about the same cost, by non-dominated sorting. Stopped trials
            count as trials: ask for about three times as many.
        patience: End the search once so many complete trials have grown the hypervolume by less
            than patience_share of it; null runs all trials.
        patience_share: See patience (0.002: by a five hundredth).
        screen: One trial of so many is fine-tuned (0: all): those that promise most new
            hypervolume by their accuracy after repair. Screened trials count as trials. Of use
            where that accuracy is well above chance (see repair); 5 is good.
        final_points: Most points of the frontier that are trained further at the end: those that
            leave the most hypervolume, by accuracies smoothed over all trials; 0 takes the whole
            frontier as measured.
        final_seeds: How often at most each of them is trained further, for the mean and std of its
            test accuracy: twice, and further where neighbours' accuracies overlap; 0 keeps the
            weights that it has.
        final_epochs: Epochs of these trainings; null is finetune.epochs.
        keep_checkpoints: Which finished trials keep their weights: those on the frontier, or all.
            Until the run is complete all are kept while trials have parents.
        reference_point: Hypervolume's reference point, [cost, score]; null is what the base model
            costs, and chance. A run keeps its first one.
        trial_timeout_s: Longest time of one trial in s; null is no limit. A final training has as
            much, more in proportion to its epochs.
        retry_failed: Run the trials of earlier sessions that failed once more.
        warm_start: Another RUN whose finished trials teach the sampler; they count neither as
            trials nor for the frontier.
    """

    cost: Literal["macs", "params", "latency"] = "macs"
    method: str = "gain-curve"
    proposal: Literal["widths", "threshold", "mixed"] = "widths"
    offsets: Literal["auto", "group", "stage", "none"] = "auto"
    offset_range: float = 0.5
    sampler: Literal["ehvi", "tpe", "nsga2", "nsga3", "gp", "random"] = "tpe"
    min_ratio: float = 0.1
    keep: str = ""
    min_width: dict[str, float] = field(default_factory=dict)
    max_macs: str | int | float | None = None
    min_macs: str | int | float | None = None
    max_params: str | int | float | None = None
    max_latency_ms: str | int | float | None = None
    divisor: int | Literal["auto"] = "auto"
    repair: Literal["auto", "none", "compensate", "feedback"] = "auto"
    seeds: bool = True
    stratify: bool = True
    parents: bool = True
    early_stopping: Literal["off", "mo-asha"] = "off"
    patience: int | None = None
    patience_share: float = 0.002
    screen: int = 0
    final_points: int = 12
    final_seeds: int = 3
    final_epochs: float | None = None
    keep_checkpoints: Literal["frontier", "all"] = "frontier"
    reference_point: tuple[float, float] | None = None
    trial_timeout_s: float | None = None
    retry_failed: bool = False
    warm_start: str | None = None


@dataclass(frozen=True)
class ResourceConfig:
    """What a trial takes of the machine or cluster.

    Args:
        gpus_per_trial: GPUs for one trial: 0 (CPU), 1, or 1/n where n trials share one (0.25); null
            takes a whole GPU where the cluster has any, else the CPU.
        cpus_per_trial: CPU cores for one trial.
        max_concurrent: Most trials at one time; null is as many as fit.
        memory_fraction: Share of a GPU's memory that one trial may use (0 to 1); null follows
            gpus_per_trial.
        memory_gb: Memory in GB that measuring gain curves and repairing (compensate, feedback) may
            take for one trial, over the networks and the images, on the device it runs on; what
            does not fit is put into temporary files (TMPDIR), to the same numbers. null: half of
            the machine's or container's memory divided by the trials that its cores allow at a
            time (of a GPU: half of a trial's share), or what is needed at least.
        address: Ray address (HOST:PORT, or auto for a cluster that is up); null starts Ray on this
            machine, and joins the cluster inside a Ray job.
        storage_path: Folder or URI for Ray Tune's own logs, TensorBoard's event files among them;
            null keeps none.
    """

    gpus_per_trial: float | None = None
    cpus_per_trial: float = 1.0
    max_concurrent: int | None = None
    memory_fraction: float | None = None
    memory_gb: float | None = None
    address: str | None = None
    storage_path: str | None = None

    def gpus(self, available: float) -> float:
        """GPUs for one trial on a cluster that has `available` of them."""
        if self.gpus_per_trial is None:
            return 1.0 if available >= 1 else 0.0
        return self.gpus_per_trial


@dataclass(frozen=True)
class LatencyConfig:
    """What milliseconds are of, where a search saves or limits latency.

    The layers are timed once on a grid of channels, before the trials; the frontier's members are
    measured whole at the end.

    Args:
        runtime: What runs the network: torch (CPU), torch:cuda, or onnxruntime (CPU; needs
            slimfront[export]).
        batch: Images of a batch.
        threads: CPU threads of the runtime.
        node: Ray resource of the node to measure on (that of ray start
            --resources='{"board": 1}'); null is where the base model is prepared.
    """

    runtime: Literal["torch", "torch:cuda", "onnxruntime"] = "torch"
    batch: int = 1
    threads: int = 1
    node: str | None = None


@dataclass(frozen=True)
class Config:
    """The run.

    Args:
        task: What is slimmed and how good it is: classification, segmentation (both by `model` and
            `data`), scenes-segmentation, scenes-detection, or package.module:factory of your own,
            which needs trust_factory.
        task_args: Arguments of the task's factory, as in {"root": "photos"}.
        trials: Trials in all; those that a run has finished already count, failed ones too.
        out: RUN, the folder or URI (s3://…, gs://…) of the results; one that is there is continued.
        seed: Seed of all that is random: splits, proposals, training.
        base: How a base model is trained where model.weights is null.
        finetune: How a trial trains its slim network.
    """

    task: str = CLASSIFICATION
    task_args: dict[str, Any] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    base: RecipeConfig = field(default_factory=lambda: RecipeConfig(epochs=30.0, warmup=0.1))
    finetune: RecipeConfig = field(default_factory=RecipeConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    trials: int = 24
    out: str = "runs/search"
    seed: int = 0
