"""`archcost check` on a repository of 20 files: the CPU time of the check beyond the import of torch.

    python benchmarks/check.py

Each file has a function that builds a classifier of torchvision; every model has a budget and is checked for
all usual findings. The times are those of one process: to import torch and torchvision, to check, and the
part of it that the models' own constructors take.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

NAMES = (
    *(
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnext50_32x4d",
        "wide_resnet50_2",
        "vgg11_bn",
        "vgg16",
    ),
    *("alexnet", "squeezenet1_0", "densenet121", "densenet169", "shufflenet_v2_x1_0", "mobilenet_v2"),
    *("mobilenet_v3_large", "mnasnet1_0", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "swin_t"),
)


def main() -> None:
    """Write the repository into a temporary folder, check it, and print the times."""
    start = time.process_time()
    import torchvision

    imported = time.process_time()
    for name in NAMES:
        getattr(torchvision.models, name)()
    built = time.process_time()
    import archcost

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        tables = ["[tool.archcost]\n"]
        for name in NAMES:
            text = f"import torchvision\n\n\ndef net():\n    return torchvision.models.{name}()\n"
            Path(f"{name}_net.py").write_text(text)
            tables.append(f'[tool.archcost.models.{name}]\nspec = "{name}_net.py:net"\n')
            tables.append('input_size = [1, 3, 224, 224]\nmax_params = "200M"\n')
        Path("pyproject.toml").write_text("".join(tables))
        before = time.process_time()
        result = archcost.check(store=False, progress=False)
        checked = time.process_time()
        os.chdir("/")
    print(f"import of torch and torchvision   {imported - start:6.1f} s")
    print(f"the models built, with weights    {built - imported:6.1f} s")
    print(f"archcost check of {len(result.models)} models       {checked - before:6.1f} s")
    print(result.summary)


if __name__ == "__main__":
    main()
