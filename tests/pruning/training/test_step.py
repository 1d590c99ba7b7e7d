"""A step of a training: rehearsed, captured as a CUDA graph, or neither."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pruning.data.images import ImageSet
from pruning.training import step as step_module
from pruning.training.step import Step, capture
from tests.pruning.training.sample_training import EXACT, losses, network


def test_a_rehearsal_leaves_no_trace(data: ImageSet) -> None:
    """What a capture does first must not change the training that follows."""
    plain, rehearsed = network(), network()
    for model in (plain, rehearsed):
        model.train()
    x, y = next(iter(data.batches(32)))
    steps = [Step(m, None, EXACT, torch.device("cpu")) for m in (plain, rehearsed)]
    start = {k: v.clone() for k, v in rehearsed.state_dict().items()}
    pointers = [p.data_ptr() for p in rehearsed.parameters()]
    steps[1].rehearse(x, y)
    assert all(torch.equal(v, start[k]) for k, v in rehearsed.state_dict().items())
    assert [p.data_ptr() for p in rehearsed.parameters()] == pointers
    for step in steps:
        torch.manual_seed(0)
        for _ in range(4):
            step(x, y)
    assert steps[0].mean_loss(4) == steps[1].mean_loss(4)
    for a, b in zip(plain.parameters(), rehearsed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_rehearsal_that_fails_leaves_no_trace_either(data: ImageSet) -> None:
    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(steps) == 2:
                raise RuntimeError("called a synchronizing CUDA operation")
            steps.append(1)
            return x

    steps: list[int] = []
    model = nn.Sequential(network(), Waits()).train()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    step = Step(model, None, EXACT, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="synchronizing"):
        step.rehearse(*next(iter(data.batches(32))))
    assert all(torch.equal(v, start[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert step.mean_loss(1) == 0


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_captured_and_eager_steps_give_the_same_losses(
    data: ImageSet, precision: str, momentum: float
) -> None:
    recipe = replace(EXACT, epochs=2.5, precision=precision, momentum=momentum, warmup=0.2)
    runs = [
        losses(network(), data, replace(recipe, cuda_graph=graph), device="cuda", seed=1)
        for graph in (True, False)
    ]
    assert runs[0] == pytest.approx(runs[1], rel=0.02 if precision == "bf16" else 5e-3)
    assert runs[0][-1] < runs[0][0]


@pytest.mark.gpu
@needs_gpu
def test_distillation_is_captured_too(data: ImageSet, recwarn: pytest.WarningsRecorder) -> None:
    recipe = replace(EXACT, distill=0.5, precision="fp32")
    runs = [
        losses(network(), data, replace(recipe, cuda_graph=graph), device="cuda", teacher=network())
        for graph in (True, False)
    ]
    assert runs[0] == pytest.approx(runs[1], rel=1e-3)
    assert not [w for w in recwarn if "CUDA graph" in str(w.message)]


@pytest.mark.gpu
@needs_gpu
def test_a_step_that_cannot_be_captured_runs_eagerly_and_says_so(data: ImageSet) -> None:
    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1.0 if x.sum().item() > -1e30 else 0.0)

    model = nn.Sequential(Waits(), network())
    stream = torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        results = losses(model, data, EXACT, device="cuda")
    assert torch.cuda.current_stream() == stream
    plain = losses(network(), data, replace(EXACT, cuda_graph=False), device="cuda")
    assert results == pytest.approx(plain, rel=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_a_finished_capture_gives_its_memory_back(data: ImageSet) -> None:
    resident = data.to("cuda")
    losses(network(), resident, EXACT)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        losses(network(), resident, EXACT)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_on_a_cpu_nothing_is_captured() -> None:
    step = Step(network(), None, EXACT, torch.device("cpu"))
    assert capture(step, (4, 1, 8, 8), 0) is step
    assert step_module.REHEARSALS >= 2  # the second step is the first that has momentum
