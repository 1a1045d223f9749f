# SPDX-License-Identifier: Apache-2.0
"""The published decoupled networks in plain PyTorch, written from the paper's tables alone.

Shares no code with the passes; layers are named as in torchvision, so weights load by name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Shuffle(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        # New group b takes the channels i with i mod G = b.
        return torch.cat([x[:, b :: self.groups] for b in range(self.groups)], dim=1)


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.bottleneck = outputs != width
        kernels = (1, 3, 1) if self.bottleneck else (3, 3)
        strides = (1, stride, 1) if self.bottleneck else (stride, 1)
        channels = (inputs, *[width] * (len(kernels) - 1), outputs)
        for i, (kernel, step) in enumerate(zip(kernels, strides, strict=True)):
            conv = nn.Conv2d(
                channels[i], channels[i + 1], kernel, step, kernel // 2, groups=groups, bias=False
            )
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        self.layers = len(kernels)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, groups=groups, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.layers + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.layers else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class DecoupledResNet(nn.Module):
    """ResNet-34 or 50 with group convolutions and a shuffle after layer1, layer2 and layer3."""

    def __init__(self, depth: int, base: int, *, groups: int = 4, classes: int = 1000) -> None:
        super().__init__()
        expansion = 4 if depth == 50 else 1
        self.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs = base
        for stage, repeats in enumerate((3, 4, 6, 3)):
            width = base * 2**stage
            blocks: list[nn.Module] = []
            for index in range(repeats):
                stride = 2 if stage and not index else 1
                blocks.append(Block(inputs, width, width * expansion, stride, groups))
                inputs = width * expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.shuffle = Shuffle(groups)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        x = self.shuffle(self.layer1(x))
        x = self.shuffle(self.layer2(x))
        x = self.shuffle(self.layer3(x))
        return self.fc(self.layer4(x).mean((2, 3)))


class DecoupledVgg16(nn.Module):
    """96,112,P,224,224,P,448 S 448,448,P,896,896 S 896,P,896,896,512,P: the convolutions."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        plan = [96, 112, "P", 224, 224, "P", 448, "S", 448, 448, "P"]
        plan += [896, 896, "S", 896, "P", 896, 896, 512, "P"]
        self.order: list[str] = []
        self.features = nn.ModuleDict()
        self.pool, self.shuffle = nn.MaxPool2d(2, 2), Shuffle(groups)
        inputs, index = 3, 0
        for item in plan:
            if isinstance(item, str):
                self.order.append(item)
                index += item == "P"
                continue
            conv = nn.Conv2d(inputs, item, 3, 1, 1, groups=1 if inputs == 3 else groups)
            self.features[str(index)] = conv
            self.features[str(index + 1)] = nn.BatchNorm2d(item)
            self.order.append(str(index))
            inputs, index = item, index + 3

    def forward(self, x: Tensor) -> Tensor:
        for item in self.order:
            if item == "P":
                x = self.pool(x)
            elif item == "S":
                x = self.shuffle(x)
            else:
                x = torch.relu(self.features[str(int(item) + 1)](self.features[item](x)))
        return x


class DecoupledAlexNet(nn.Module):
    """128/384/768/512/256, kernels 11/5/3/3/3, a shuffle after the third: the convolutions."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                "0": nn.Conv2d(3, 128, 11, 4, 2),
                "3": nn.Conv2d(128, 384, 5, padding=2, groups=groups),
                "6": nn.Conv2d(384, 768, 3, padding=1, groups=groups),
                "8": nn.Conv2d(768, 512, 3, padding=1, groups=groups),
                "10": nn.Conv2d(512, 256, 3, padding=1, groups=groups),
            }
        )
        self.pool, self.shuffle = nn.MaxPool2d(3, 2), Shuffle(groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.features["0"](x)))
        x = self.pool(torch.relu(self.features["3"](x)))
        x = self.shuffle(torch.relu(self.features["6"](x)))
        x = torch.relu(self.features["10"](torch.relu(self.features["8"](x))))
        return self.pool(x)
