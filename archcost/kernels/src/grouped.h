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

}  // extern "C"
