// The depthwise convolution by its definition, for small kernels, on images in channels_last.
#pragma once

#include "window.h"

namespace archcost {

// From weights [channels][taps].
long depthwise_direct_packed_floats(const Window& window, long channels);
void pack_depthwise_direct(const Window& window, long channels, const float* weights, float* packed);

// Channels lie together in input and output.
void convolve_depthwise_direct(const Window& window, const ArchcostConvolution& convolution, const float* input,
                               const float* packed, const float* bias, const float* addend, float* output);

}  // namespace archcost
