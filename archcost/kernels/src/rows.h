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

inline float sum_of_lanes(Vector value) {
  alignas(64) float lanes[kLanes];
  store(lanes, value);
  for (int half = kLanes / 2; half; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// What is no number may be left out.
inline float largest(const float* from, long count) {
  Vector most = broadcast(-INFINITY);
  long i = 0;
  for (; i + kLanes <= count; i += kLanes) most = at_least(load(from + i), most);
  float found = -INFINITY;
  for (int lane = 0; lane < kLanes; ++lane) found = found > most[lane] ? found : most[lane];
  for (; i < count; ++i) found = found > from[i] ? found : from[i];
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
  alignas(64) float lanes[kLanes];
  store(lanes, value);
  float rest = sum_of_lanes(sum);
  for (long k = 0; k < count - i; ++k) rest += lanes[k];
  return rest;
}

inline void scale(float* data, long count, float factor) {
  long i = 0;
  for (; i + kLanes <= count; i += kLanes) store(data + i, load(data + i) * factor);
  for (; i < count; ++i) data[i] *= factor;
}

}  // namespace archcost
