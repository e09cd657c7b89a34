"""The time of a sweep of 50 points of ResNet-50, and of one point alone: `python benchmarks/sweep.py`.

CPU time of the process, after a first point, which imports and builds.
"""

import time

import torchvision

import archcost


def main() -> None:
    model = torchvision.models.resnet50(weights=None).eval()
    archcost.sweep(model, (1, 3, 64, 64), progress=False)
    start = time.process_time()
    found = archcost.sweep(model, range(128, 513, 16), batch=[1, 8], progress=False)
    print(f"{len(found)} points: {time.process_time() - start:.2f} s of CPU")
    start = time.process_time()
    archcost.analyze(model, input_size=(1, 3, 224, 224), progress=False)
    print(f"analyze alone: {time.process_time() - start:.3f} s of CPU")


if __name__ == "__main__":
    main()
