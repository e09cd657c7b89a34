// The tile transforms by the numbers that the outside names them with.
#pragma once

#include "tile_transform.h"

namespace archcost {

// A tile is named by a family and two numbers: Winograd's by its place in the list, Fourier's by size and taps. One
// family of Fourier's has three products for two complex numbers (Gauss), the other four, but fewer weights.
enum Family { kWinograd = 0, kFourier = 1, kFourierOfPairs = 2 };

// nullptr where there is none.
const TileTransform* find_tile(long family, long first, long second);

}  // namespace archcost
