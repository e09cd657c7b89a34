#include "program.h"

#include <chrono>

namespace archcost {
namespace {

// No step has more.
constexpr long kMostPlaces = 64;

std::int64_t now() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

}  // namespace

void run_program(const ArchcostStep* steps, long count, float* const* bases, int threads,
                 std::int64_t* nanoseconds) {
  float* places[kMostPlaces];
  std::int64_t before = nanoseconds ? now() : 0;
  for (long i = 0; i < count; ++i) {
    const ArchcostStep& step = steps[i];
    for (long k = 0; k < step.count; ++k) {
      const ArchcostPlace& place = step.places[k];
      places[k] = place.base < 0 ? nullptr : bases[place.base] + place.offset;
    }
    step.function(step.arguments, places, threads);
    if (!nanoseconds) continue;
    const std::int64_t after = now();
    nanoseconds[i] = after - before;
    before = after;
  }
}

}  // namespace archcost
