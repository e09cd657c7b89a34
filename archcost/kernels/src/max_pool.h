// The largest input under a window, for each output. What is padded does not count; what is not a number does.
#pragma once

#include "window.h"

namespace archcost {

// Channels lie together in input and output.
void max_pool(const Window& window, const ArchcostConvolution& of, const float* input, float* output);

}  // namespace archcost
