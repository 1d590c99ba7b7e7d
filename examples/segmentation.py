#!/usr/bin/env python3
"""Segmentation of your own pictures: a folder of images and masks in, a frontier in mIoU out.

    python examples/segmentation.py --trials 6 --out runs/segmentation

The pictures are scenes of scikit-learn's digits, written as PNG; put your own folder in their
place: photos/train/images/NAME.jpg beside photos/train/masks/NAME.png, likewise test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

import search
from search.data.dense import scenes

ADAMW = {"optimizer": "adamw", "weight_decay": 0.01}


def write(folder: Path) -> Path:
    """300 pictures to train on and 60 to report on; 0 in a mask is background, then ten digits."""
    for split, count in (("train", 300), ("test", 60)):
        part = scenes(split, count)
        for kind, pictures in (("images", part.images[:, 0]), ("masks", part.masks)):
            place = folder / split / kind
            place.mkdir(parents=True, exist_ok=True)
            for i, picture in enumerate(pictures):
                Image.fromarray(picture).save(place / f"{i:03d}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of pictures; default: the scenes")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--epochs", type=float, default=20, help="of the whole network's training")
    parser.add_argument("--at-most", default="50%", help="share of the MACs, of the point to load")
    parser.add_argument("--out", default="runs/segmentation", help="folder or URI of the run")
    options = parser.parse_args()
    photos = options.photos or write(Path("photos"))

    result = search.run(
        task="segmentation",
        trials=options.trials,
        out=options.out,
        data={"name": "folder", "root": str(photos), "image_size": 64},
        base=ADAMW | {"epochs": options.epochs, "lr": 0.006, "warmup": 0.05},
        # the whole network teaches its map, and the last feature map of each resolution
        finetune=ADAMW | {"epochs": 2, "batch": 16, "distill": 0.5, "distill_maps": "auto"},
        search={"final_seeds": 1, "min_ratio": 0.2},
        # any network of this library, torchvision or timm, or package.module:factory of your own
        **{"model.name": "unet", "finetune.lr": 0.002, "resources.cpus_per_trial": 1},
    )
    whole = result.metric.show(result.record["base_score_test"])
    point = result.choose(at_most=options.at_most)
    print(f"{point}; the whole network {whole}")

    slim = point.load()  # logits [N, classes, H, W] of normalised images [N, C, H, W]
    part = scenes("test", 60)
    x = torch.from_numpy(part.images).float().div(255).repeat(1, 3, 1, 1)
    about = slim.slimfront
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (about.mean, about.std))
    with torch.no_grad():
        found = slim((x - mean) / std).argmax(1)
    digits = torch.from_numpy(part.masks) > 0
    print(f"{(found > 0)[digits].float().mean():.0%} of the digits' pixels are found")


if __name__ == "__main__":
    main()
