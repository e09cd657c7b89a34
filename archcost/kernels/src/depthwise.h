// The depthwise convolution with a large kernel: Fourier along the rows, the definition along the columns.
#pragma once

#include "activation.h"
#include "convolution.h"

extern "C" {

// Places of the step: input, packed weights, bias, addend, output. Bias (a float a channel) and addend may be
// null; the addend lies in memory as the output does. Threads and limits of the convolution are not looked at.
struct ArchcostFftDepthwise {
  std::int64_t height, width, transform_size;  // of the kernel, and of the transforms it was packed for
  ArchcostConvolution convolution;
  ArchcostActivation activation;
};

}  // extern "C"

namespace archcost {

struct DepthwiseKernel {
  long height, width;
  // Of the transform of a row; 0 where rows and kernel are too long for one.
  long transform_size;
};

// For rows of `width` pixels, padded by that much: a row is transformed whole, its padding shared by both ends.
long depthwise_transform_size(long taps, long width, long pad_left, long pad_right);

long depthwise_packed_floats(const DepthwiseKernel& kernel, long channels);
void pack_depthwise(const DepthwiseKernel& kernel, long channels, const float* weights, float* packed);

long depthwise_scratch_floats(const DepthwiseKernel& kernel, const ArchcostConvolution& convolution);
// bias and addend may be null. A clamp is read from the convolution, not from the activation.
void convolve_depthwise(const DepthwiseKernel& kernel, const ArchcostConvolution& convolution,
                        const float* input, const float* packed, const float* bias, float* output,
                        const float* addend = nullptr, const ArchcostActivation& activation = {});

}  // namespace archcost
