// Means over the pixels of a map, and the gate of squeeze-and-excitation made of them.
#pragma once

#include "activation.h"

extern "C" {

// Pixels of kLanes channels, pixel_stride floats apart: kLanes in blocked layout (where whole vectors are read), the
// number of channels in rows [pixels][channels] (block_stride kLanes).
struct ArchcostMap {
  std::int64_t batch, channels, pixels;
  std::int64_t batch_stride, block_stride, pixel_stride;
};

// out[n][c] = activation(scale * sum over the pixels): scale is 1 / pixels for a mean.
struct ArchcostGlobalPool {
  ArchcostMap input;
  ArchcostActivation activation;
  std::int64_t out_batch_stride;
  float scale;
};

// gate = second(W2 first(W1 (scale * sum over the pixels) + b1) + b2). Sums made elsewhere are a map of one pixel, or
// of as many as there are partial sums, and scale is 1 / the true number of pixels. What is behind the last channel in
// the gate's last vector is arbitrary: `out_batch_stride` is a multiple of kLanes.
struct ArchcostSqueeze {
  ArchcostMap input;
  ArchcostActivation first, second;
  std::int64_t hidden, out_batch_stride;
  float scale;
};

}  // extern "C"

// archcost_step_global_pool: places input, output.
// archcost_step_squeeze: places input, packed weights, gate.
