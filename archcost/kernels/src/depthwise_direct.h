// The depthwise convolution by its definition, for small kernels, on images in channels_last or in blocked layout.
#pragma once

#include "activation.h"
#include "window.h"

extern "C" {

// Places of the step: input, packed weights, bias, addend, output. Bias (a float a channel) and addend may be
// null; the addend lies in memory as the output does.
struct ArchcostDepthwise {
  ArchcostImages input, output;
  ArchcostWindow window;
  std::int64_t pad_top, pad_left;
  ArchcostActivation activation;
};

}  // extern "C"

namespace archcost {

// From weights [channels][taps].
long depthwise_direct_packed_floats(const Window& window, long channels);
void pack_depthwise_direct(const Window& window, long channels, const float* weights, float* packed);

// Input and output are in the same of the two layouts. A clamp is read from the convolution, not from the activation.
void convolve_depthwise_direct(const Window& window, const ArchcostConvolution& convolution, const float* input,
                               const float* packed, const float* bias, const float* addend, float* output,
                               const ArchcostActivation& activation = {});

}  // namespace archcost
