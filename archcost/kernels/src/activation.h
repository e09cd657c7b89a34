// The function behind a layer, done to outputs while they are in the first-level cache.
#pragma once

#include <cstdint>

extern "C" {

// kind is one of archcost::Activation. `low` and `high` are the bounds of a clamp (0 and infinity for ReLU, 0
// and 6 for ReLU6); `low` is the slope of leaky ReLU.
struct ArchcostActivation {
  std::int64_t kind;
  float low, high;
};

}  // extern "C"

namespace archcost {

// The numbers stand in archcost/engine as well.
enum Activation : std::int64_t {
  kIdentity = 0,
  kClamp = 1,
  kSilu = 2,
  kHardswish = 3,
  kHardsigmoid = 4,
  kSigmoid = 5,
  kGelu = 6,      // with the error function
  kGeluTanh = 7,
  kLeakyRelu = 8,
  kTanh = 9,
  kElu = 10,      // with low as alpha
  kMish = 11,
  kSoftplus = 12,
};

// In place, to `count` floats. What is not a number stays so.
void activate(const ArchcostActivation& of, float* data, long count);

}  // namespace archcost
