// The largest input under a window, or their mean, for each output.
#pragma once

#include "window.h"

extern "C" {

// Places of the steps: input, output, both in channels_last or in blocked layout.
struct ArchcostPool {
  ArchcostImages input, output;
  ArchcostWindow window;
  std::int64_t pad_top, pad_left;
  // Of avg_pool alone: whether padding counts (as much at the bottom and at the right), and what sums are divided
  // by where that is settled, else 0.
  std::int64_t count_include_pad, divisor;
};

}  // extern "C"

namespace archcost {

// What is padded does not count; what is not a number does.
void max_pool(const Window& window, const ArchcostConvolution& of, const float* input, float* output);

}  // namespace archcost
