// Sums, largest numbers and exponentials of neighbouring floats and of neighbouring vectors.
#pragma once

#include <cmath>

#include "functions.h"

namespace archcost {

// Of the vectors at(0), at(1), ...
template <class At>
ARCHCOST_INLINE Vector sum_of(long count, const At& at) {
  Vector sums[8] = {};
  long p = 0;
  for (; p + 8 <= count; p += 8) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sums[i] += at(p + i);
  }
  for (; p < count; ++p) sums[0] += at(p);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// Combines the lanes of a vector in halves.
template <int Distance = kLanes / 2, class Combine>
ARCHCOST_INLINE float across_lanes(Vector value, const Combine& combine) {
  Vector other = value;
  swap_blocks<Distance>(value, other, std::make_integer_sequence<int, kLanes>{});
  const Vector both = combine(value, other);
  if constexpr (Distance > 1) {
    return across_lanes<Distance / 2>(both, combine);
  } else {
    return both[0];
  }
}

inline float sum_of_lanes(Vector value) {
  return across_lanes(value, [](Vector a, Vector b) { return a + b; });
}

// What is no number may be left out.
inline float largest(const float* from, long count) {
  Vector most[4];
  for (Vector& one : most) one = broadcast(-INFINITY);
  long i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) most[k] = at_least(load(from + i + k * kLanes), most[k]);
  }
  for (; i + kLanes <= count; i += kLanes) most[0] = at_least(load(from + i), most[0]);
  // What is missing is read twice.
  if (i < count && count >= kLanes) most[1] = at_least(load(from + count - kLanes), most[1]);
  const auto larger = [](Vector a, Vector b) { return at_least(a, b); };
  float found = across_lanes(larger(larger(most[0], most[1]), larger(most[2], most[3])), larger);
  if (count < kLanes) {
    for (i = 0; i < count; ++i) found = found > from[i] ? found : from[i];
  }
  return found;
}

// to[i] = exp(from[i] - most); returns their sum.
inline float exponentials(const float* from, long count, float most, float* to) {
  Vector sum = {};
  long i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vector value = exponential(load(from + i) - most);
    store(to + i, value);
    sum += value;
  }
  if (i == count) return sum_of_lanes(sum);
  const Vector value = exponential(load_first(from + i, count - i) - most);
  store_first(to + i, value, count - i);
  return sum_of_lanes(sum + load_first(to + i, count - i));
}

inline void scale(float* data, long count, float factor) {
  long i = 0;
  for (; i + kLanes <= count; i += kLanes) store(data + i, load(data + i) * factor);
  if (i < count) store_first(data + i, load_first(data + i, count - i) * factor, count - i);
}

}  // namespace archcost
