"""A memory budget: what does not fit waits in a file, the numbers stay, and it is held."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruning import UserError, methods, oneshot, prune
from pruning.data import Samples, Workspace
from pruning.graph import Problem, cut, lattice, trace
from pruning.importance import gain_curve
from pruning.models.registry import resolve
from pruning.reconstruction import budget, error_feedback, input_moments
from pruning.reconstruction.shelf import Shelf
from tests.pruning import sample_models

ROOT = Path(__file__).parents[3]
LAYOUTS = {
    "as it is": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "a part": lambda x: x[:, 1:3],
    "expanded": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "half": lambda x: x.to(torch.bfloat16),
    "one number": lambda x: x.sum(),
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_lay_in_the_file_comes_back_bit_by_bit_and_laid_out_as_it_was(layout: str) -> None:
    x = LAYOUTS[layout](torch.randn(2, 4, 3, 5))
    shelf = Shelf(Workspace(), room=0)
    found = shelf.put(x).get()
    assert torch.equal(found, x)
    assert found.dtype == x.dtype
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        assert found.stride() == x.stride()
    assert shelf.held == 0


def test_what_nobody_holds_leaves_its_room_and_its_place() -> None:
    shelf = Shelf(Workspace(), room=100)
    first = shelf.keep(torch.full((10,), float(i)) for i in range(5))  # of 40 bytes
    assert shelf.held == 80
    assert shelf.spilled == 120
    assert [float(x[0]) for x in first] == [0, 1, 2, 3, 4]
    first.update(lambda x: x.mul_(2))
    assert [float(x[9]) for x in first[1:]] == [2, 4, 6, 8]
    del first
    gc.collect()
    assert shelf.held == 0
    again = shelf.keep(torch.full((10,), float(i)) for i in range(5))
    assert shelf.spilled == 120, "places in the file are used again"
    assert [float(x[9]) for x in again] == [0, 1, 2, 3, 4]


def test_a_disk_without_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, place: int) -> None: ...
        def write(self, data: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(UserError, match=r"No space left on device.*memory_gb.*TMPDIR"):
        Shelf(Workspace(folder=str(tmp_path)), room=0).put(torch.ones(4))


def _batches(name: str, count: int = 3, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    images = sample_models.images(name, count * size)
    return [(x, torch.zeros(size, dtype=torch.int64)) for x in images.split(size)]


@pytest.fixture
def nothing_fits(monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A budget that is accepted, and in which everything is put into the file."""
    monkeypatch.setattr(budget, "SHARE", 0.0)
    monkeypatch.setattr(budget, "ordering", lambda graph: 2e9)
    return Workspace(2.0)


@pytest.mark.parametrize("name", ["resnet20", "torchvision:efficientnet_b0"])
@pytest.mark.parametrize("feedback", [True, False])
def test_a_repair_from_the_file_is_the_one_from_memory(
    name: str, feedback: bool, nothing_fits: Workspace
) -> None:
    model, graph = sample_models.model(name), sample_models.graph(name)
    keep, found, told = sample_models.random_keep(graph, 0), [], []
    tight = replace(nothing_fits, tell=lambda *words: told.append(words))
    for workspace in (Workspace(), tight):
        slim = cut(model, graph, keep)
        samples = replace(Samples.of(_batches(name)), workspace=workspace)
        error_feedback.repair(slim, model, graph, keep, samples, feedback=feedback)
        found.append(slim.state_dict())
    for key, tensor in found[0].items():
        assert torch.equal(tensor, found[1][key]), key
    assert told[-1] == ("repair: layers", len(graph.layers), len(graph.layers))


class Concatenating(nn.Module):
    """A layer that reads two groups at once, besides ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3)
        self.both, self.last = nn.Conv2d(32, 24, 3), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.both(torch.cat([self.left(x).relu(), self.right(x).relu()], 1)))


@pytest.mark.parametrize("name", ["resnet20", "concatenating"])
def test_gain_curves_in_several_passes_are_those_of_one(
    name: str, nothing_fits: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    if name == "resnet20":
        model, graph = sample_models.model(name), sample_models.graph(name)
    else:
        model = Concatenating().eval()
        graph = trace(model, (3, 32, 32))
    samples = Samples.of(_batches("resnet20", 2))
    one = gain_curve.gain_curves(model, graph, samples)
    beside, most = budget.measuring(graph, graph.readers())
    monkeypatch.setattr(budget, "measuring", lambda *_: (beside, most))
    tight = replace(nothing_fits, memory_gb=(beside + 1.001 * most) / 1e9)
    monkeypatch.setattr(budget, "ordering", lambda graph: tight.bytes)
    walked: list[int] = []
    seen = replace(samples, inputs=_Counted(samples.inputs, walked), workspace=tight)
    several = gain_curve.gain_curves(model, graph, seen)
    assert len(walked) > 2, "one pass and the look at the first batch would be two"
    np.testing.assert_array_equal(one.order, several.order)
    np.testing.assert_array_equal(one.gain, several.gain)


class _Counted:
    def __init__(self, source: Any, walked: list[int]) -> None:
        self.source, self.walked = source, walked

    def __iter__(self) -> Any:
        self.walked.append(1)
        return iter(self.source)


def test_too_small_a_budget_is_refused_before_any_image_is_read() -> None:
    model, graph = sample_models.model("resnet20"), sample_models.graph("resnet20")

    def unread() -> Any:
        raise AssertionError("read")
        yield

    samples = Samples(unread(), (), workspace=Workspace(0.01))
    with pytest.raises(UserError, match=r"0.01 GB .* too few: measuring takes 0\.\d GB; set res"):
        input_moments(model, graph, samples)
    with pytest.raises(UserError, match=r"too few: the repair takes 0\.\d GB.*repair none"):
        error_feedback.repair(model, model, graph, graph.full_keep(), samples)


def test_prune_takes_a_budget_and_does_not_fall_back_to_another_repair() -> None:
    model = sample_models.model("resnet20")
    with pytest.raises(UserError, match="too few"):
        prune(model, _batches("resnet20"), macs=0.6, memory_gb=0.01)
    found = [prune(model, _batches("resnet20"), macs=0.6, memory_gb=gb) for gb in (None, 0.5)]
    a, b = (each.model.state_dict() for each in found)
    assert all(torch.equal(a[key], b[key]) for key in a)


def peak_of_a_repair(memory_gb: float | None) -> float:
    """Most resident bytes beyond those before, measuring and repairing a MobileNet-V2."""
    torch.set_num_threads(1)
    net = resolve("torchvision:mobilenet_v2", {"num_classes": 10}).eval()
    graph = trace(net, (3, 96, 96))
    batches = [torch.randn(56, 3, 96, 96) for _ in range(24)]
    samples = Samples(batches, (), workspace=Workspace(memory_gb))
    problem, method = Problem(graph, lattice(graph, None, 0.05)), methods.get("gain-curve")
    for x in batches[:1]:
        net(x[:28])  # what is loaded at the first use
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    state = method.prepare(net, graph, samples)
    widths = method.allocate(state, problem, 0.7 * problem.cost.base_macs)
    oneshot.slim(net, problem, method, state, widths, samples, repair="feedback")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


@pytest.mark.nightly(reason="two processes that compute for two minutes")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_budget_is_held() -> None:
    """Real pages of a real process, alone: half of what the same repair takes without a budget."""
    peaks = []
    for memory_gb in (None, 0.8):
        code = f"from {__name__} import peak_of_a_repair as f; print(f({memory_gb}))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        peaks.append(float(done.stdout.split()[-1]))
    assert peaks[0] > 1.2e9, "without a budget it needs more, else this shows nothing"
    assert peaks[1] < 0.8e9
