#include "activation.h"

#include "functions.h"

namespace archcost {

void activate(const ArchcostActivation& of, float* data, long count) {
  if (of.kind == kIdentity) return;
  with_function(of, [&](const auto& function) {
    long i = 0;
    for (; i + kLanes <= count; i += kLanes) store(data + i, function(load(data + i)));
    if (i < count) store_first(data + i, function(load_first(data + i, count - i)), count - i);
  });
}

}  // namespace archcost
