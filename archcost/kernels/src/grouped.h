// Grouped convolutions by their definition, of any window, on images in blocked layout.
#pragma once

#include "activation.h"
#include "window.h"

extern "C" {

// Places of the step: input, packed weights, bias, addend, output. Bias (a float a channel) and addend may be
// null; the addend lies in memory as the output does.
struct ArchcostGrouped {
  ArchcostImages input, output;
  ArchcostWindow window;
  std::int64_t pad_top, pad_left, groups;
  ArchcostActivation activation;
};

// From weights [out_channels][in_of_group][taps].
std::int64_t archcost_grouped_packed_floats(const ArchcostWindow* window, std::int64_t out_channels,
                                            std::int64_t in_of_group);
void archcost_grouped_pack(const ArchcostWindow* window, std::int64_t out_channels, std::int64_t in_of_group,
                           const float* weights, float* packed);
void archcost_step_grouped(const void* arguments, float* const* places, int threads);

}  // extern "C"
