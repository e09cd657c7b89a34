"""The pictures of docs/paths, written into the current folder.

    python examples/draw_paths.py                  # Strassen's curve on paper alone
    python examples/draw_paths.py benchmarks/strassen.json    # beside the times of benchmarks/strassen.py

They are PNG; another suffix gives another format.
"""

import sys

from archcost import ConvSpec, plot

plot.stack([3], path="direct.png")
plot.im2col(ConvSpec(1, 3, 3, input_size=(6, 6)), path="im2col.png")

strided = ConvSpec(3, 64, 5, stride=2, padding=2, input_size=(32, 32))
plot.tiles(strided, "fft-16", path="tiles-fft.png")
plot.tiles(ConvSpec(8, 8, 5, padding=2, input_size=(40,)), "fft-16", path="tiles-sequence.png")
plot.tiles(ConvSpec(8, 8, 3, padding=1, input_size=(14, 14)), "winograd-4", path="tiles-winograd.png")

plot.winograd(2, 3, path="winograd.png")
plot.strassen(sys.argv[1] if len(sys.argv) > 1 else None, path="strassen.png")

print("drawn: direct.png, im2col.png, tiles-*.png, winograd.png, strassen.png")
