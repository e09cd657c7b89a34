// Expansion by a 1x1 convolution, depthwise convolution and projection by a 1x1 convolution as one, in bands
// of rows: what is between stays in the second-level cache. All tensors are blocked.
#pragma once

#include "activation.h"
#include "convolution.h"

extern "C" {

// Places: input, expansion weights and bias, depthwise weights and bias, projection weights and bias, output,
// addend, sums. Biases are whole blocks of floats, and may be null.
// - Without expansion weights the depthwise convolution reads the input.
// - Without projection weights the output is that of the depthwise convolution behind its activation; `sums`
//   then, unless null, gets its sum over all pixels: whole blocks of each image, sums_batch_stride from one to
//   the next.
// - addend, or null: as many pixels and channels as the output, by its own strides; added to the projection.
// The window of the depthwise convolution is 3, 5 or 7 wide and high, its step 1 or 2.
struct ArchcostInvertedResidual {
  ArchcostImages input, output, addend;
  std::int64_t channels;  // of the depthwise convolution
  std::int64_t taps, step, pad_top, pad_left;
  std::int64_t sums_batch_stride;
  ArchcostActivation expansion, depthwise, projection;
};

}  // extern "C"
