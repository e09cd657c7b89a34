// What is done to each output on its way to memory: the bias is added, and what is out of bounds is limited.
#pragma once

#include "convolution.h"
#include "vector.h"

namespace archcost {

// Of the channels from `first` on; `bias` may be null.
inline Vector bias_of(const float* bias, long first, long channels) {
  return bias ? load_first(bias + first, channels - first) : Vector{};
}

struct Finish {
  Finish(Vector bias, const ArchcostConvolution& of)
      : bias(bias), low(broadcast(of.low)), high(broadcast(of.high)) {}

  // What is not a number stays so, as in torch.clamp.
  ARCHCOST_INLINE Vector operator()(Vector value) const { return within(value + bias, low, high); }

  const Vector bias, low, high;
};

}  // namespace archcost
