// A number that changes where weights do: made of some of their elements.
#include <cstdint>
#include <cstring>

#include "export.h"

// `places`: addresses of four bytes each. A stretch of loads that wait for memory side by side, so the digest
// is four, each multiplied without waiting for the others.
ARCHCOST_EXPORT std::uint64_t archcost_fingerprint(const void* const* places, std::int64_t count) {
  constexpr std::uint64_t kOdd = 0x9E3779B97F4A7C15u;
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, places[i], sizeof bits);
    std::uint64_t& lane = lanes[i & 3];
    lane = (lane ^ bits) * kOdd;
    lane ^= lane >> 29;
  }
  std::uint64_t all = 0;
  for (std::uint64_t lane : lanes) all = (all ^ lane) * kOdd + (all >> 31);
  return all;
}

// Fetches cache lines side by side that somebody is about to look at one after the other.
ARCHCOST_EXPORT void archcost_prefetch(const void* const* places, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) __builtin_prefetch(places[i]);
}
