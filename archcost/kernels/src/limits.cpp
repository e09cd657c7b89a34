#include "limits.h"

#include "threads.h"
#include "vector.h"

namespace archcost {
namespace {

// Sums in flight: two units with four cycles of latency keep eight busy, and sixteen registers hold twelve.
constexpr int kSums = 12;
constexpr int kReads = 8;

// Nobody reads it: it keeps compilers from leaving out the work.
volatile float sink;

}  // namespace

std::int64_t multiply_add(std::int64_t count, int threads) {
  const long rounds = divide_up(count, kSums * kLanes);
  // From memory, so that the factor is known at no compile time; sums stay at 1.
  static volatile float half = 0.5f;
  parallel_for(threads, threads, [&](long, int) {
    const Vector factor = broadcast(half);
    Vector sums[kSums];
    for (Vector& sum : sums) sum = broadcast(2 * half);
    for (long i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
      for (Vector& sum : sums) sum = sum * factor + factor;
    }
    for (int k = 1; k < kSums; ++k) sums[0] += sums[k];
    sink = sums[0][0];
  });
  return std::int64_t(rounds) * kSums * kLanes * threads;
}

std::int64_t read_floats(const float* data, std::int64_t count, std::int64_t times, int threads) {
  const long share = count / threads / (kReads * kLanes) * (kReads * kLanes);
  parallel_for(threads, threads, [&](long thread, int) {
    const float* const from = data + thread * share;
    Vector sums[kReads] = {};
    for (long time = 0; time < times; ++time) {
      for (long i = 0; i < share; i += kReads * kLanes) {
#pragma GCC unroll 8
        for (int k = 0; k < kReads; ++k) sums[k] += load(from + i + k * kLanes);
      }
    }
    for (int k = 1; k < kReads; ++k) sums[0] += sums[k];
    sink = sums[0][0];
  });
  return std::int64_t(share) * sizeof(float) * times * threads;
}

}  // namespace archcost
