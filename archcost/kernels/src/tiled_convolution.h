// A convolution by tiles: transform the input, multiply plane by plane, transform back, block by block.
#pragma once

#include "activation.h"
#include "convolution.h"
#include "tile_transform.h"

extern "C" {

// Places of the step: input, packed weights, bias, addend, output. Bias (a float a channel) and addend may be
// null; the addend lies in memory as the output does. Threads and limits of the convolution are not looked at.
struct ArchcostTiles {
  std::int64_t family, first, second;  // see find_tile.h
  ArchcostConvolution convolution;
  ArchcostActivation activation;
};

}  // extern "C"

namespace archcost {

// Floats of the transformed weights of out_channels by in_channels kernels.
long packed_floats(const TileTransform& transform, long out_channels, long in_channels);
void pack_weights(const TileTransform& transform, long out_channels, long in_channels, const float* weights,
                  float* packed);

// Working memory of one call.
long scratch_floats(const TileTransform& transform, const ArchcostConvolution& convolution);
// bias may be null, and so may addend: else it is added to the outputs, and lies in memory as they do. A clamp is
// read from the convolution, not from the activation.
void convolve_by_tiles(const TileTransform& transform, const ArchcostConvolution& convolution,
                       const float* input, const float* packed, const float* bias, float* output,
                       const float* addend = nullptr, const ArchcostActivation& activation = {});

}  // namespace archcost
