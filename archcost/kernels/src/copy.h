// A copy of a tensor with other strides: dimensions in another order, slices, parts of a concatenation.
#pragma once

#include <cstdint>

extern "C" {

constexpr int kArchcostMostDimensions = 6;

// The dimensions from the outermost to the innermost; those that are not needed have size 1. Strides count floats.
struct ArchcostCopy {
  std::int64_t sizes[kArchcostMostDimensions];
  std::int64_t in_strides[kArchcostMostDimensions], out_strides[kArchcostMostDimensions];
};

}  // extern "C"

// archcost_step_copy: places input, output.
