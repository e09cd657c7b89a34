// Vectors of float in the compiler's own vector extensions (GCC and Clang), as wide as the target's registers.
#pragma once

#include <cstddef>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define ARCHCOST_INLINE inline __attribute__((always_inline))
// The same for a lambda.
#define ARCHCOST_FLAT __attribute__((always_inline))

namespace archcost {

// kLanes: floats in a register. kRows: rows of the small matrix product whose sums stay in registers, two
// vectors wide, so that 2 * kRows sums, two vectors of weights and one spare fit the register file.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 14;
constexpr const char* kIsa = "avx512";
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRows = 6;
constexpr const char* kIsa = "avx2";
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRows = 12;
constexpr const char* kIsa = "neon";
#else
constexpr int kLanes = 4, kRows = 6;
constexpr const char* kIsa = "baseline";
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef int IntVector __attribute__((vector_size(kLanes * sizeof(int))));
// The same vector at any address of a float.
typedef float UnalignedVector __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

ARCHCOST_INLINE Vector load(const float* from) { return *reinterpret_cast<const UnalignedVector*>(from); }
ARCHCOST_INLINE void store(float* to, Vector value) { *reinterpret_cast<UnalignedVector*>(to) = value; }
// Subtracting zero changes nothing, not even the sign of zero: compilers leave it out.
ARCHCOST_INLINE Vector broadcast(float value) { return value - Vector{}; }

// The first `count` floats; the other lanes are zero. Nothing behind them is read.
ARCHCOST_INLINE Vector load_first(const float* from, long count) {
  if (count >= kLanes) return load(from);
#if defined(__AVX512F__)
  return Vector(_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from));
#endif
  alignas(64) float lanes[kLanes] = {};
  for (long i = 0; i < count; ++i) lanes[i] = from[i];
  return load(lanes);
}

// Writes the first `count` lanes in pieces of fixed size, which compile to single instructions.
ARCHCOST_INLINE void store_first(float* to, Vector value, long count) {
  if (count >= kLanes) return store(to, value);
#if defined(__AVX512F__)
  return _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), __m512(value));
#endif
  alignas(64) float lanes[kLanes];
  store(lanes, value);
  const float* from = lanes;
  if (kLanes > 8 && (count & 8)) std::memcpy(to, from, 32), to += 8, from += 8;
  if (kLanes > 4 && (count & 4)) std::memcpy(to, from, 16), to += 4, from += 4;
  if (count & 2) std::memcpy(to, from, 8), to += 2, from += 2;
  if (count & 1) *to = *from;
}

// Lane i of the result is lane index(i) of a and b laid end to end.
#if defined(__clang__)
#define ARCHCOST_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define ARCHCOST_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IntVector{__VA_ARGS__})
#endif

// One step of a transposition: in the two by two blocks of side Distance, swap the off-diagonal ones.
template <int Distance, int... Lane>
ARCHCOST_INLINE void swap_blocks(Vector& a, Vector& b, std::integer_sequence<int, Lane...>) {
  const Vector upper = ARCHCOST_SHUFFLE(a, b, ((Lane & Distance) ? kLanes + Lane - Distance : Lane)...);
  b = ARCHCOST_SHUFFLE(a, b, ((Lane & Distance) ? kLanes + Lane : Lane + Distance)...);
  a = upper;
}

template <int Distance>
ARCHCOST_INLINE void transpose_from(Vector (&rows)[kLanes]) {
  if constexpr (Distance < kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (!(i & Distance)) {
        swap_blocks<Distance>(rows[i], rows[i + Distance], std::make_integer_sequence<int, kLanes>{});
      }
    }
    transpose_from<2 * Distance>(rows);
  }
}

// Lane i of the result is the sum of the lanes of rows[i]; the rows are used up.
template <int Distance = kLanes / 2>
ARCHCOST_INLINE Vector sums_of_lanes(Vector (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < Distance; ++i) {
    swap_blocks<Distance>(rows[i], rows[i + Distance], std::make_integer_sequence<int, kLanes>{});
    rows[i] += rows[i + Distance];
  }
  if constexpr (Distance > 1) sums_of_lanes<Distance / 2>(rows);
  return rows[0];
}

// A square of kLanes by kLanes floats, in registers.
ARCHCOST_INLINE void transpose(Vector (&rows)[kLanes]) { transpose_from<1>(rows); }

// The larger and the smaller of two floats or vectors of them, where a value that is not a number stays. With masks,
// since GCC 12 makes two instructions of the choice, and warns of the plain intrinsics.
template <class T>
ARCHCOST_INLINE T at_least(T value, T low) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 64) return T(_mm512_maskz_max_ps(0xffff, __m512(low), __m512(value)));
  if constexpr (sizeof(T) == 32) return T(_mm256_max_ps(__m256(low), __m256(value)));
#endif
  return low > value ? low : value;
}

template <class T>
ARCHCOST_INLINE T at_most(T value, T high) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 64) return T(_mm512_maskz_min_ps(0xffff, __m512(high), __m512(value)));
  if constexpr (sizeof(T) == 32) return T(_mm256_min_ps(__m256(high), __m256(value)));
#endif
  return high < value ? high : value;
}

template <class T>
ARCHCOST_INLINE T within(T value, T low, T high) {
  return at_most(at_least(value, low), high);
}

constexpr long round_up(long value, long multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr long divide_up(long value, long by) { return (value + by - 1) / by; }

}  // namespace archcost
