#include "activation.h"

#include "functions.h"

namespace archcost {

void activate(const ArchcostActivation& of, float* data, long count) {
  if (of.kind == kIdentity) return;
  with_function(of, [&](const auto& function) {
    for (long i = 0; i < count; i += kLanes) store(data + i, function(load(data + i)));
  });
}

}  // namespace archcost
