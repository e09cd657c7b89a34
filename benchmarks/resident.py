"""What a process's resident set grows by in training steps or inference: `resident.py NAME BATCH SIDE train`.

Run alone, it holds `archcost.largest_batch` to account on five models: `python benchmarks/resident.py`. Freed
blocks go back to the system at once (glibc's thresholds at 64 KiB); with glibc's own thresholds,
`--fragmented`, what the heap keeps comes on top.
"""

import json
import os
import subprocess
import sys

import torch
import torchvision

CASES = [("resnet18", 32, 160), ("mobilenet_v2", 16, 160), ("vgg11", 4, 160), ("vit_b_16", 4, 224)]
CASES += [("densenet121", 8, 160)]
BACK_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


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
    model = torchvision.models.get_model(name, weights=None)
    x = torch.rand(batch, 3, side, side)
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    steps(model, x, training, 3)
    return {"base": base, "grown": resident("VmHWM") - base}


def main() -> None:
    if len(sys.argv) == 5:
        name, batch, side, mode = sys.argv[1:]
        print(json.dumps(grown(name, int(batch), int(side), mode == "train")))
        return
    from archcost.analysis.largest import memory_of

    environment = os.environ if "--fragmented" in sys.argv else {**os.environ, **BACK_AT_ONCE}
    for name, batch, side in CASES:
        for training in (True, False):
            size = (batch if training else 4 * batch, 3, side, side)
            model = torchvision.models.get_model(name, weights=None)
            counted = memory_of(model, size, training=training).total
            mode = "train" if training else "infer"
            command = [sys.executable, __file__, name, str(size[0]), str(side), mode]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
            real = json.loads(done.stdout)["grown"]
            text = f"{counted / 1e6:5.0f} MB counted, {real / 1e6:5.0f} real ({counted / real - 1:+.1%})"
            print(f"{name:13} {mode} batch {size[0]:3}: {text}", flush=True)


if __name__ == "__main__":
    main()
