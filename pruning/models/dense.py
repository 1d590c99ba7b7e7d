"""Small networks that answer for every place of an image: a U-Net, and a detector of centres."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Logits [N, classes, H, W] of images [N, C, H, W]; H and W are multiples of 8.

    Ronneberger et al., U-Net (2015), with a stem of stride 2 and sums in place of crops.
    """

    def __init__(self, num_classes: int = 11, in_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        one, two, three = width, 2 * width, 4 * width
        self.stem = nn.Sequential(_block(in_channels, one, 2), _block(one, one))
        self.down1 = nn.Sequential(_block(one, two, 2), _block(two, two))
        self.down2 = nn.Sequential(_block(two, three, 2), _block(three, three))
        self.up1 = _block(three + two, two)
        self.up2 = _block(two + one, one)
        self.head = nn.Conv2d(one, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        middle = self.down1(fine)
        coarse = self.down2(middle)
        y = self.up1(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        y = self.up2(torch.cat([F.interpolate(y, scale_factor=2.0), fine], 1))
        return F.interpolate(self.head(y), scale_factor=2.0, mode="bilinear", align_corners=False)


class CenterDetector(nn.Module):
    """[N, classes + 4, H/4, W/4]: logits of centres by class, then the box around each place.

    A box is its distances to the left, top, right and bottom, in steps of 4 pixels, as logs.
    Zhou et al., Objects as points (2019); distances as in FCOS (2019).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        one, two, three = width, 2 * width, 4 * width
        self.stem = nn.Sequential(_block(in_channels, one, 2), _block(one, one))
        self.down1 = nn.Sequential(_block(one, two, 2), _block(two, two))
        self.down2 = nn.Sequential(_block(two, three, 2), _block(three, three))
        self.up = nn.Sequential(_block(three + two, three), _block(three, two))
        self.head = nn.Conv2d(two, num_classes + 4, 1)
        with torch.no_grad():
            assert self.head.bias is not None
            self.head.bias[:num_classes] = -4.0  # centres are rare
            self.head.bias[num_classes:] = 0.7

    def forward(self, x: Tensor) -> Tensor:
        middle = self.down1(self.stem(x))
        coarse = self.down2(middle)
        y = self.up(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        found: Tensor = self.head(y)
        return found
