"""ONNX Runtime: one export serves all slim versions, where the graph has no sizes of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruning.graph import cut, trace
from pruning.latency import OnnxRuntime, onnx_runtime
from pruning.latency.calls import layer_calls

pytest.importorskip("onnxruntime")


class Small(nn.Module):
    """A strided, a depthwise and a pointwise convolution, and a flattened head."""

    def __init__(self, shuffle: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24 * 16, 5)
        self.shuffle = shuffle

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(torch.relu(self.norm(self.first(x))))
        if self.shuffle:
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(torch.flatten(self.point(x), 1))


@pytest.mark.parametrize("shuffle", [False, True])
def test_slim_versions_run_in_the_graph_of_the_whole_one(monkeypatch, shuffle: bool) -> None:  # type: ignore[no-untyped-def]
    exports = []
    real = onnx_runtime.exported
    monkeypatch.setattr(onnx_runtime, "exported", lambda *args: exports.append(1) or real(*args))
    model = Small(shuffle).eval()
    graph = trace(model, (3, 8, 8))
    runtime = OnnxRuntime()
    assert runtime.network(model, (3, 8, 8)).median_ms > 0
    half = tuple(np.arange(group.units // 2) for group in graph.groups)
    slim = cut(model, graph, half)
    assert runtime.network(slim, (3, 8, 8)).median_ms > 0
    assert len(exports) == (2 if shuffle else 1)  # a shuffle has its number of channels in it


def test_every_layer_runs_alone() -> None:
    model = Small(False).eval()
    graph = trace(model, (3, 8, 8))
    runtime = OnnxRuntime()
    for call in layer_calls(model, graph):
        half = max(call.rows // 2, 1)
        assert runtime.layer(call, half, call.columns) > 0
