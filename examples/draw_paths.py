"""The pictures of docs/paths, written into the current folder.

    python examples/draw_paths.py                  # Strassen's curve on paper alone
    python examples/draw_paths.py benchmarks/strassen.json    # beside the times of benchmarks/strassen.py

They are PNG; another suffix gives another format.
"""

import sys

from archcost import ConvSpec, plot_im2col, plot_stack, plot_strassen, plot_tiles, plot_winograd

plot_stack([3], path="direct.png")
plot_im2col(ConvSpec(1, 3, 3, input_size=(6, 6)), path="im2col.png")

strided = ConvSpec(3, 64, 5, stride=2, padding=2, input_size=(32, 32))
plot_tiles(strided, "fft-16", path="tiles-fft.png")
plot_tiles(ConvSpec(8, 8, 5, padding=2, input_size=(40,)), "fft-16", path="tiles-sequence.png")
plot_tiles(ConvSpec(8, 8, 3, padding=1, input_size=(14, 14)), "winograd-4", path="tiles-winograd.png")

plot_winograd(2, 3, path="winograd.png")
plot_strassen(sys.argv[1] if len(sys.argv) > 1 else None, path="strassen.png")

print("drawn: direct.png, im2col.png, tiles-*.png, winograd.png, strassen.png")
