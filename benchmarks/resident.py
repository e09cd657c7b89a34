"""What a process's resident set grows by in training steps or inference: `resident.py NAME BATCH SIDE train`.

Run alone, it holds `archcost.largest_batch` to account on models of eleven kinds: `python
benchmarks/resident.py`, or `--only NAME`. Freed blocks go back to the system at once (glibc's thresholds at
64 KiB); with glibc's own thresholds, `--fragmented`, what the heap keeps comes on top.
"""

import json
import os
import subprocess
import sys

import torch
import torchvision

CASES = [("resnet18", 32, 160), ("mobilenet_v2", 16, 160), ("vgg11", 4, 160), ("vit_b_16", 4, 224)]
CASES += [("densenet121", 8, 160), ("convnext_tiny", 4, 160), ("swin_t", 4, 224)]
CASES += [("efficientnet_b0", 8, 192), ("squeezenet1_1", 16, 192), ("lraspp_mobilenet_v3_large", 4, 256)]
CASES += [("text", 32, 128)]
BACK_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Text(torch.nn.Module):
    """A classifier of the next of 8,000 words: an embedding, two layers of LSTM, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(8000, 256)
        self.lstm = torch.nn.LSTM(256, 512, 2, batch_first=True)
        self.head = torch.nn.Linear(512, 8000)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.words(words))[0])


def network(name: str) -> torch.nn.Module:
    if name == "text":
        return Text()
    more = {"weights_backbone": None} if name.startswith("lraspp") else {}
    return torchvision.models.get_model(name, weights=None, **more)


def size_of(name: str, batch: int, side: int) -> tuple[int, ...]:
    """The size of a batch of images, or of texts as long as the side."""
    return (batch, side) if name == "text" else (batch, 3, side, side)


def resident(key: str) -> int:
    """Bytes under a key of /proc/self/status: VmRSS, or VmHWM for the peak."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))


def steps(model: torch.nn.Module, x: torch.Tensor, training: bool, times: int) -> None:
    update = torch.optim.AdamW(model.parameters()) if training else None
    model.train(training)
    with torch.set_grad_enabled(training):
        for _ in range(times):
            y = model(x)
            y = y["out"] if isinstance(y, dict) else y
            if update is not None:
                y.backward(torch.ones_like(y))
                update.step()
                update.zero_grad()
            del y


def grown(name: str, batch: int, side: int, training: bool) -> dict[str, int]:
    """The growth of this process's resident set at its peak, from before the model is built."""
    torch.set_num_threads(1)
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten())
    steps(small, torch.rand(2, 3, 8, 8), True, 2)  # load the libraries
    base = resident("VmRSS")
    model = network(name)
    size = size_of(name, batch, side)
    x = torch.randint(8000, size) if name == "text" else torch.rand(size)
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    steps(model, x, training, 3)
    return {"base": base, "grown": resident("VmHWM") - base}


def main() -> None:
    if len(sys.argv) == 5 and sys.argv[4] in ("train", "infer"):
        name, batch, side, mode = sys.argv[1:]
        print(json.dumps(grown(name, int(batch), int(side), mode == "train")))
        return
    from archcost.analysis.largest import memory_of

    environment = os.environ if "--fragmented" in sys.argv else {**os.environ, **BACK_AT_ONCE}
    only = sys.argv[sys.argv.index("--only") + 1 :] if "--only" in sys.argv else [name for name, *_ in CASES]
    for name, batch, side in (case for case in CASES if case[0] in only):
        for training in (True, False):
            size = size_of(name, batch if training else 4 * batch, side)
            dtype = torch.int64 if name == "text" else None
            memory = memory_of(network(name), size, training=training, dtype=dtype)
            counted = memory.total
            mode = "train" if training else "infer"
            command = [sys.executable, __file__, name, str(size[0]), str(side), mode]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
            real = json.loads(done.stdout)["grown"]
            text = f"{counted / 1e6:5.0f} MB counted, {real / 1e6:5.0f} real ({counted / real - 1:+.1%})"
            print(f"{name:25} {mode} batch {size[0]:3}: {text}; {memory.at}", flush=True)


if __name__ == "__main__":
    main()
