#!/usr/bin/env python3
"""Choose a point of a finished run and run its ONNX, as a server would.

    slimfront search digits --trials 12 --out RUN
    python examples/deploy_onnx.py RUN --at-most 50%

Needs the `export` extra (onnx, onnxruntime). The file is compared with PyTorch before it gets its
name; here it is compared once more, on other inputs and another batch size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import pruning
import search
from search.cli import main as slimfront


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("--at-most", default="50%", help="cost: 50%%, 60M MACs, 2M params")
    options = parser.parse_args()
    point = search.open_run(options.run).choose(at_most=options.at_most)
    print(f"point {point.rank}: {point.macs:,} MACs, accuracy {point.score:.2%}")

    if slimfront(["export", options.run, "--format", "onnx", "--point", str(point.rank)]) != 0:
        raise SystemExit(1)  # the command has said why
    file = Path(point.checkpoint).with_name("model.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    slim = pruning.load(point.checkpoint)
    images = torch.rand(5, *slim.slimfront.input_shape)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (slim.slimfront.mean, slim.slimfront.std))
    normalised = (images - mean) / std  # what the network was trained on
    (found,) = session.run(None, {session.get_inputs()[0].name: normalised.numpy()})
    with torch.no_grad():
        wanted = slim(normalised).numpy()
    print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")
    print(f"largest difference from PyTorch: {np.abs(found - wanted).max():.1e}")


if __name__ == "__main__":
    main()
