#include "activation.h"

#include "vector.h"

namespace archcost {

void activate(const ArchcostActivation& of, float* data, long count) {
  if (of.kind != kClamp) return;
  const Vector low = broadcast(of.low), high = broadcast(of.high);
  for (long i = 0; i < count; i += kLanes) {
    Vector value = load(data + i);
    value = low > value ? low : value;
    store(data + i, high < value ? high : value);
  }
}

}  // namespace archcost
