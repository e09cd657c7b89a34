"""A 7x7 image of ones with a zero in its corner, under a 3x3 kernel of ones: every number by hand.

Each output is the sum of the nine pixels that it sees, so the zero shows in those that see the corner and
in no others. A second 3x3 on top sees 5x5.
"""

from itertools import product

import torch
from torch import nn

import archcost


def ones(zero: tuple[int, int]) -> torch.Tensor:
    image = torch.ones(1, 1, 7, 7)
    image[0, 0, zero[0], zero[1]] = 0
    return image


def show(title: str, values: torch.Tensor) -> None:
    print(f"{title}, {values.shape[-2]}x{values.shape[-1]}:\n")
    for row in values[0, 0].tolist():
        print("   " + "".join(f"{value:4.0f}" for value in row))
    print()


model = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.Conv2d(1, 1, 3, bias=False))
model.requires_grad_(False)
for layer in model:
    nn.init.ones_(layer.weight)

image = ones(zero=(0, 0))
first = model[0](image)
second = model(image)
analysis = archcost.analyze(model, image)


def sees(layer: str, position: tuple[int, int]) -> tuple[range, range]:
    """The rows and the columns of the image that one position of a layer sees."""
    (top, bottom), (left, right) = archcost.receptive_field(analysis, layer=layer, position=position).window
    return range(top, bottom + 1), range(left, right + 1)


def text(window: tuple[range, range]) -> str:
    rows, columns = window
    return f"rows {rows[0]}-{rows[-1]}, columns {columns[0]}-{columns[-1]}"


show("The image", image)
show("After a 3x3 of ones, the sum of the nine pixels of each window", first)
for position in ((0, 0), (0, 1), (2, 2)):
    rows, columns = sees("0", position)
    pixels = [[int(image[0, 0, y, x]) for x in columns] for y in rows]
    total = sum(map(sum, pixels))
    written = ") + (".join(" + ".join(map(str, row)) for row in pixels)
    print(f"   position {position}, {text((rows, columns))}:  ({written}) = {total}")
    assert total == first[0, 0][position]
print()

show("After a second 3x3 of ones, the sum of nine such sums", second)
print("   position (0, 0):  (8 + 9 + 9) + (9 + 9 + 9) + (9 + 9 + 9) = 80, all others 9 x 9 = 81\n")

print("Which 5x5 of the image each of them saw, and whether the zero at (0, 0) was among it:\n")
for position in product(range(3), range(3)):
    rows, columns = sees("1", position)
    holds = "   holds the corner" if 0 in rows and 0 in columns else ""
    print(f"   position {position}:  {text((rows, columns))}   {second[0, 0][position]:.0f}{holds}")
print()

# The zero on every pixel in turn: the outputs that are no longer 9 or 81 must be those that see it.
places = {"0": list(product(range(5), range(5))), "1": list(product(range(3), range(3)))}
windows = {(layer, place): sees(layer, place) for layer in places for place in places[layer]}
for y, x in product(range(7), range(7)):
    moved = ones(zero=(y, x))
    outputs = {"0": (model[0](moved), 9), "1": (model(moved), 81)}
    for (layer, place), (rows, columns) in windows.items():
        values, full = outputs[layer]
        assert (values[0, 0][place] != full) == (y in rows and x in columns)
print("With the zero on each of the 49 pixels in turn, exactly the outputs whose window holds it change.")
