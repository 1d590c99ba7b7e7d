"""A small YOLO as users write it: YOLOv5's C3, SPPF, neck and heads, v8's C2f in one place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ANCHORS = ((10, 13, 16, 30), (30, 61, 62, 45), (116, 90, 156, 198))
STRIDES = (8, 16, 32)


class Conv(nn.Module):
    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, (k - 1) // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c1: int, c2: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c2), Conv(c2, c2, 3)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C3(nn.Module):
    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        c_ = c2 // 2
        self.cv1, self.cv2, self.cv3 = Conv(c1, c_), Conv(c1, c_), Conv(2 * c_, c2)
        self.m = nn.Sequential(*(Bottleneck(c_, c_, shortcut) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C2f(nn.Module):
    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        self.c = c2 // 2
        self.cv1, self.cv2 = Conv(c1, 2 * self.c), Conv((2 + n) * self.c, c2)
        self.m = nn.ModuleList(Bottleneck(self.c, self.c, shortcut) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        c_ = c1 // 2
        self.cv1, self.cv2 = Conv(c1, c_), Conv(c_ * 4, c2)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        y1 = self.m(x)
        y2 = self.m(y1)
        return self.cv2(torch.cat((x, y1, y2, self.m(y2)), 1))


class Detect(nn.Module):
    """In training the three raw maps, else the decoded boxes beside them."""

    def __init__(self, nc: int, ch: tuple[int, ...]) -> None:
        super().__init__()
        self.nc, self.no, self.nl, self.na = nc, nc + 5, len(ch), 2
        self.grid = [torch.empty(0) for _ in ch]
        anchors = torch.tensor(ANCHORS, dtype=torch.float32).view(self.nl, -1, 2)
        self.register_buffer("anchors", anchors)
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in ch)

    def forward(self, x: list[Tensor]) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        z = []
        for i, stride in enumerate(STRIDES):
            x[i] = self.m[i](x[i])
            bs, _, ny, nx = x[i].shape
            x[i] = x[i].view(bs, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
            if not self.training:
                if self.grid[i].shape[2:4] != x[i].shape[2:4]:
                    v, u = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
                    self.grid[i] = torch.stack((u, v), 2).view(1, 1, ny, nx, 2).float().to(x[i])
                y = x[i].sigmoid()
                xy = (y[..., 0:2] * 2 - 0.5 + self.grid[i]) * stride
                wh = (y[..., 2:4] * 2) ** 2 * self.anchors[i].view(1, self.na, 1, 1, 2)
                z.append(torch.cat((xy, wh, y[..., 4:]), -1).view(bs, -1, self.no))
        return x if self.training else (torch.cat(z, 1), x)


class Yolo(nn.Module):
    def __init__(self, nc: int = 3, width: int = 16) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(Conv(3, w, 6, 2), Conv(w, 2 * w, 3, 2), C3(2 * w, 2 * w))
        self.p3 = nn.Sequential(Conv(2 * w, 4 * w, 3, 2), C3(4 * w, 4 * w, 2))
        self.p4 = nn.Sequential(Conv(4 * w, 8 * w, 3, 2), C2f(8 * w, 8 * w, 2))
        self.p5 = nn.Sequential(Conv(8 * w, 8 * w, 3, 2), C3(8 * w, 8 * w), SPPF(8 * w, 8 * w))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.lat5, self.lat4 = Conv(8 * w, 4 * w), Conv(4 * w, 4 * w)
        self.td4, self.td3 = C3(12 * w, 4 * w, 1, False), C3(8 * w, 4 * w, 1, False)
        self.down3, self.down4 = Conv(4 * w, 4 * w, 3, 2), Conv(4 * w, 4 * w, 3, 2)
        self.bu4, self.bu5 = C3(8 * w, 4 * w, 1, False), C3(8 * w, 8 * w, 1, False)
        self.detect = Detect(nc, (4 * w, 4 * w, 8 * w))

    def forward(self, x: Tensor) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        n5 = self.lat5(self.p5(p4))
        n4 = self.lat4(self.td4(torch.cat((self.up(n5), p4), 1)))
        out3 = self.td3(torch.cat((self.up(n4), p3), 1))
        out4 = self.bu4(torch.cat((self.down3(out3), n4), 1))
        out5 = self.bu5(torch.cat((self.down4(out4), n5), 1))
        return self.detect([out3, out4, out5])
