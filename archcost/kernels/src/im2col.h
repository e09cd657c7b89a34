// The convolution by its definition: blocks of output positions times weights, for any stride and dilation.
#pragma once

#include "window.h"

namespace archcost {

long im2col_packed_floats(const Window& window, long out_channels, long in_channels);
void pack_im2col(const Window& window, long out_channels, long in_channels, const float* weights, float* packed);

long im2col_scratch_floats(const Window& window, const ArchcostConvolution& convolution);
// bias and addend may be null.
void convolve_im2col(const Window& window, const ArchcostConvolution& convolution, const float* input,
                     const float* packed, const float* bias, float* output, const float* addend = nullptr);

}  // namespace archcost
