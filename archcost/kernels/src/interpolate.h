// Images of another size, in blocked layout.
#pragma once

#include "convolution.h"

extern "C" {

// As torch.nn.functional.interpolate. row_scale and column_scale: input pixels for an output pixel, that is the quotient
// of the sizes (of the sizes less one with align_corners), or 1 / scale_factor where that was given.
struct ArchcostInterpolation {
  ArchcostImages input, output;
  std::int64_t mode;  // one of archcost::Interpolation
  float row_scale, column_scale;
};

}  // extern "C"

namespace archcost {

enum Interpolation : std::int64_t {
  kNearest = 0,
  kNearestExact = 1,
  kBilinear = 2,
  kBilinearAligned = 3,  // align_corners
};

}  // namespace archcost

// archcost_step_interpolate: places input, output.
