#include "fft.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>

namespace archcost {
namespace {

std::vector<int> factors(int number) {
  std::vector<int> found;
  for (int radix : {4, 2, 3, 5}) {
    for (; number % radix == 0; number /= radix) found.push_back(radix);
  }
  if (number != 1) found.clear();
  return found;
}

ARCHCOST_INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
ARCHCOST_INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
ARCHCOST_INLINE Complex operator*(float a, Complex b) { return {a * b.re, a * b.im}; }
ARCHCOST_INLINE Complex conjugate(Complex a) { return {a.re, -a.im}; }

// Times a root of unity on the way to the spectrum, times its conjugate on the way back.
template <bool kInverse, class Root>
ARCHCOST_INLINE Complex rotated(Complex a, Root by) {
  const float im = kInverse ? -by.im : by.im;
  return {a.re * by.re - a.im * im, a.re * im + a.im * by.re};
}

// Times -i on the way to the spectrum, times i on the way back.
template <bool kInverse>
ARCHCOST_INLINE Complex quarter_turn(Complex a) {
  return kInverse ? Complex{-a.im, a.re} : Complex{a.im, -a.re};
}

// The transforms of a few numbers, in place.
template <bool kInverse>
ARCHCOST_INLINE void butterfly(Complex (&x)[2]) {
  const Complex sum = x[0] + x[1];
  x[1] = x[0] - x[1];
  x[0] = sum;
}

template <bool kInverse>
ARCHCOST_INLINE void butterfly(Complex (&x)[3]) {
  constexpr float kSine = 0.86602540378443864676f;
  const Complex sum = x[1] + x[2], turned = kSine * quarter_turn<kInverse>(x[1] - x[2]);
  const Complex middle = x[0] - 0.5f * sum;
  x[0] = x[0] + sum;
  x[1] = middle + turned;
  x[2] = middle - turned;
}

template <bool kInverse>
ARCHCOST_INLINE void butterfly(Complex (&x)[4]) {
  const Complex even = x[0] + x[2], even_rest = x[0] - x[2], odd = x[1] + x[3];
  const Complex odd_rest = quarter_turn<kInverse>(x[1] - x[3]);
  x[0] = even + odd;
  x[1] = even_rest + odd_rest;
  x[2] = even - odd;
  x[3] = even_rest - odd_rest;
}

template <bool kInverse>
ARCHCOST_INLINE void butterfly(Complex (&x)[5]) {
  constexpr float kCosine1 = 0.30901699437494742410f, kCosine2 = -0.80901699437494742410f;
  constexpr float kSine1 = 0.95105651629515357212f, kSine2 = 0.58778525229247312917f;
  const Complex outer = x[1] + x[4], inner = x[2] + x[3];
  const Complex outer_rest = quarter_turn<kInverse>(x[1] - x[4]);
  const Complex inner_rest = quarter_turn<kInverse>(x[2] - x[3]);
  const Complex middle1 = x[0] + kCosine1 * outer + kCosine2 * inner;
  const Complex middle2 = x[0] + kCosine2 * outer + kCosine1 * inner;
  const Complex turned1 = kSine1 * outer_rest + kSine2 * inner_rest;
  const Complex turned2 = kSine2 * outer_rest - kSine1 * inner_rest;
  x[0] = x[0] + outer + inner;
  x[1] = middle1 + turned1;
  x[2] = middle2 + turned2;
  x[3] = middle2 - turned2;
  x[4] = middle1 - turned1;
}

// One stage: `stride` interleaved transforms of `length`, each taken apart into `radix` of length / radix.
template <int radix, bool kInverse, class Root>
void stage(int length, int stride, const Root* turns, const Complex* from, Complex* to) {
  const int rest = length / radix;
  for (int q = 0; q < rest; ++q, turns += radix) {
    for (int s = 0; s < stride; ++s) {
      Complex x[radix];
#pragma GCC unroll 5
      for (int j = 0; j < radix; ++j) x[j] = from[s + stride * (q + rest * j)];
      butterfly<kInverse>(x);
      to[s + stride * radix * q] = x[0];
#pragma GCC unroll 5
      for (int k = 1; k < radix; ++k) {
        to[s + stride * (radix * q + k)] = rotated<kInverse>(x[k], turns[k]);
      }
    }
  }
}

}  // namespace

int RealFft::at_least(long size) {
  for (long even = std::max<long>(4, round_up(size, 2)); even <= kMostSize; even += 2) {
    if (!factors(int(even / 2)).empty()) return int(even);
  }
  return 0;
}

RealFft::RealFft(int size) : size(size), radices_(factors(size / 2)) {
  const double step = -2 * std::acos(-1.0) / size;
  const auto root = [&](int k) { return Root{float(std::cos(step * k)), float(std::sin(step * k))}; };
  for (int k = 0; k < size; ++k) roots_.push_back(root(k));
  int length = size / 2;
  for (const int radix : radices_) {
    for (int q = 0; q < length / radix; ++q) {
      for (int k = 0; k < radix; ++k) turns_.push_back(root(q * k * (size / length) % size));
    }
    length /= radix;
  }
}

template <bool kInverse>
Complex* RealFft::transform(Complex* a, Complex* b) const {
  int length = size / 2, stride = 1;
  const Root* turns = turns_.data();
  for (const int radix : radices_) {
    const auto run = radix == 4   ? stage<4, kInverse, Root>
                     : radix == 2 ? stage<2, kInverse, Root>
                     : radix == 3 ? stage<3, kInverse, Root>
                                  : stage<5, kInverse, Root>;
    run(length, stride, turns, a, b);
    std::swap(a, b);
    turns += length;
    length /= radix;
    stride *= radix;
  }
  return a;
}

// Even positions are the real parts, odd ones the imaginary parts of a complex signal of half the size; what
// is even in its spectrum belongs to the even positions, what is odd to the odd ones.
void RealFft::forward(Vector* signal, Complex* spectrum) const {
  const int half = size / 2;
  Complex other[kMostSize / 2];
  const Complex* const z = transform<false>(reinterpret_cast<Complex*>(signal), other);
  spectrum[0] = {z[0].re + z[0].im, Vector{}};
  spectrum[half] = {z[0].re - z[0].im, Vector{}};
  for (int k = 1; 2 * k <= half; ++k) {
    const Complex a = z[k], b = conjugate(z[half - k]);
    const Complex even = 0.5f * (a + b);
    const Complex odd = rotated<false>(0.5f * quarter_turn<false>(a - b), roots_[k]);
    spectrum[k] = even + odd;
    spectrum[half - k] = conjugate(even - odd);
  }
}

void RealFft::backward(Complex* spectrum, Vector* signal) const {
  const int half = size / 2;
  Complex other[kMostSize / 2];
  const Complex first = spectrum[0], last = spectrum[half];
  spectrum[0] = {first.re + last.re, first.re - last.re};
  for (int k = 1; 2 * k <= half; ++k) {
    const Complex a = spectrum[k], b = conjugate(spectrum[half - k]);
    const Complex even = a + b, odd = quarter_turn<true>(rotated<true>(a - b, roots_[k]));
    spectrum[k] = even + odd;
    spectrum[half - k] = conjugate(even - odd);
  }
  const Complex* const z = transform<true>(spectrum, other);
  for (int k = 0; k < half; ++k) {
    signal[2 * k] = z[k].re;
    signal[2 * k + 1] = z[k].im;
  }
}

const RealFft& real_fft(int size) {
  static std::mutex mutex;
  static auto* const made = new std::map<int, std::unique_ptr<RealFft>>;
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<RealFft>& fft = (*made)[size];
  if (!fft) fft = std::make_unique<RealFft>(size);
  return *fft;
}

}  // namespace archcost
