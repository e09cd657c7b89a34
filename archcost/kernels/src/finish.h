// What is done to each output on its way to memory: the bias is added, and what is out of bounds is limited.
#pragma once

#include "convolution.h"
#include "vector.h"

namespace archcost {

struct Finish {
  Finish(Vector bias, const ArchcostConvolution& of)
      : bias(bias), low(broadcast(of.low)), high(broadcast(of.high)) {}

  // What is not a number stays so, as in torch.clamp.
  ARCHCOST_INLINE Vector operator()(Vector value) const {
    value = value + bias;
    value = low > value ? low : value;
    return high < value ? high : value;
  }

  const Vector bias, low, high;
};

}  // namespace archcost
