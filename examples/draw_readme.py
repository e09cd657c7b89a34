"""The picture of the README: costs as `archcost analyze` prints them, beside an effective field.

It goes into the folder given as an argument, or into the current one, and needs matplotlib.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import archcost

torch.manual_seed(0)
model = torchvision.models.resnet18(weights=None).eval()
analysis = archcost.analyze(model, input_size=(1, 3, 224, 224))
lines = analysis.to_text(width=84).splitlines()
head = lines.index("") + 1
end = lines.index("", head)

effective = archcost.effective_field(analysis, layer="layer3", samples=8)
window = archcost.plot.window(analysis, layer="layer3", effective=effective)
canvas = FigureCanvasAgg(window)
canvas.draw()

figure = Figure(figsize=(13, 4.6), facecolor="#14171c", dpi=160)
table = figure.add_axes((0.015, 0.03, 0.62, 0.94))
table.axis("off")
for row, line in enumerate(lines[:end]):
    is_rule, is_bold = line.startswith("─"), row in (0, head) or line.startswith("Total")
    colour = "#5c6773" if is_rule else "#ffffff" if is_bold else "#c8d3df"
    weight = "bold" if is_bold else "normal"
    table.text(
        0,
        1 - (row + 0.5) / end,
        line,
        family="monospace",
        size=11.4,
        color=colour,
        weight=weight,
        va="center",
    )
field = figure.add_axes((0.645, 0.02, 0.35, 0.96))
field.axis("off")
field.imshow(np.asarray(canvas.buffer_rgba()))
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
figure.savefig(folder / "readme.png")
print("drawn: readme.png")
