"""Data sets that come whole: scikit-learn's digits, and CIFAR as torchvision downloads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pruning.errors import UserError
from search.data.cache import Source, cached
from search.data.spec import stratified


class Digits:
    """scikit-learn's 1,797 digits; a fixed stratified fifth is test."""

    def require(self, split: str) -> None:
        if split not in ("train", "test"):
            raise UserError("digits has no further split; set data.val to a share such as 0.1")

    def read(self, split: str) -> Source:
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        labels = digits.target.astype(np.int64)
        test = stratified(labels, 0.2, seed=0)
        rows = test if split == "test" else ~test
        return Source(labels[rows], 10, 8, pixels[rows])


class Torchvision:
    """CIFAR as torchvision downloads it; it checks each file's MD5 before it unpickles any."""

    def __init__(self, name: str, root: str, download: bool, size: int) -> None:
        self.name, self.root, self.download, self.size = name, root, download, size

    def require(self, split: str) -> None:
        if split not in ("train", "test"):
            raise UserError(f"{self.name} has no split {split}; set data.val to last:5000 or 0.1")

    def read(self, split: str) -> Source:
        from torchvision import datasets

        factory: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[self.name]
        folder = Path(self.root) / factory.base_folder
        if not folder.is_dir() and not self.download:
            raise UserError(
                f"no {self.name} in {self.root}: neither train-*.parquet nor {factory.base_folder}"
                "; correct data.root or set data.download to true"
            )
        made: list[Any] = []

        def dataset() -> Any:
            if not made:
                try:
                    made.append(factory(self.root, train=split == "train", download=self.download))
                except (OSError, RuntimeError) as error:
                    raise UserError(
                        f"{self.name} in {self.root} cannot be had ({error}); "
                        "check the network and data.root, or copy the files there"
                    ) from error
            return made[0]

        if not folder.is_dir():
            dataset()
        parts = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(folder.iterdir())]
        key = [self.name, split, self.size, parts]
        names = 100 if self.name == "cifar100" else 10
        pixels, labels = cached(
            self.name,
            key,
            self.size,
            lambda: (np.array(dataset().targets, dtype=np.int64), iter(dataset().data)),
        )
        return Source(labels, names, self.size, pixels)
