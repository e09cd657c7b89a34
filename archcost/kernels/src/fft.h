// Fourier transforms of real signals, as many at a time as a vector has lanes.
#pragma once

#include <utility>
#include <vector>

#include "butterfly.h"

namespace archcost {

// The transform of `size` real vectors: an even number whose half has no prime factor above 5. It is computed
// as a complex transform of half the size (Stockham's, which needs no reordering), even positions as the real
// parts, odd ones as the imaginary parts; what is even in its spectrum belongs to the even positions.
// Functions that are given hold pointers and numbers by value: they are copied into every stage.
class RealFft {
 public:
  static constexpr int kMostSize = 512;
  // The smallest size there is that is at least so large; 0 if there is none.
  static int at_least(long size);

  explicit RealFft(int size);
  RealFft(const RealFft&) = delete;

  // Calls spectrum(k, value), k = 0 .. size / 2, with twice the transform of signal(j), j = 0 .. size - 1.
  template <class Signal, class Spectrum>
  void forward(const Signal signal, const Spectrum spectrum) const {
    const int half = size / 2;
    Complex data[3 * kMostSize / 2], *const z = data;
    transform<false>(
        z + half, [signal](int n) ARCHCOST_FLAT { return Complex{signal(2 * n), signal(2 * n + 1)}; },
        [z](int n, Complex value) ARCHCOST_FLAT { z[n] = value; });
    const Vector sum = z[0].re + z[0].im, difference = z[0].re - z[0].im;
    spectrum(0, Complex{sum + sum, Vector{}});
    spectrum(half, Complex{difference + difference, Vector{}});
    for (int k = 1; 2 * k <= half; ++k) {
      const Complex a = z[k], b = conjugate(z[half - k]);
      const Complex even = a + b, odd = rotated<false>(quarter_turn<false>(a - b), roots_[k]);
      spectrum(k, even + odd);
      spectrum(half - k, conjugate(even - odd));
    }
  }

  // Calls signal(j, value), j = 0 .. size - 1, with `size` times the signal that has the transform spectrum(k).
  template <class Spectrum, class Signal>
  void backward(const Spectrum spectrum, const Signal signal) const {
    const int half = size / 2;
    Complex data[3 * kMostSize / 2], *const z = data;
    const Vector first = spectrum(0).re, last = spectrum(half).re;
    z[0] = {first + last, first - last};
    for (int k = 1; 2 * k <= half; ++k) {
      const Complex a = spectrum(k), b = conjugate(spectrum(half - k));
      const Complex even = a + b, odd = quarter_turn<true>(rotated<true>(a - b, roots_[k]));
      z[k] = even + odd;
      z[half - k] = conjugate(even - odd);
    }
    transform<true>(
        z + half, [z](int n) ARCHCOST_FLAT { return z[n]; },
        [signal](int n, Complex value) ARCHCOST_FLAT {
          signal(2 * n, value.re);
          signal(2 * n + 1, value.im);
        });
  }

  const int size;

 private:
  // `stride` interleaved transforms of `length`, each taken apart into `radix` of length / radix.
  struct Stage {
    int radix, length, stride;
    const Root* turns;  // what outputs are multiplied by, radix numbers for each of length / radix
  };

  // Works in room for `size` complex numbers.
  template <bool kInverse, class Load, class Store>
  void transform(Complex* room, const Load load, const Store store) const {
    Complex *from = room, *to = room + size / 2;
    const std::size_t last = stages_.size() - 1;
    const auto read = [](const Complex* of) { return [of](int n) ARCHCOST_FLAT { return of[n]; }; };
    const auto write = [](Complex* of) { return [of](int n, Complex value) ARCHCOST_FLAT { of[n] = value; }; };
    if (last == 0) return run_stage<kInverse>(stages_[0], load, store);
    run_stage<kInverse>(stages_[0], load, write(to));
    for (std::size_t i = 1; i < last; ++i) {
      std::swap(from, to);
      run_stage<kInverse>(stages_[i], read(from), write(to));
    }
    run_stage<kInverse>(stages_[last], read(to), store);
  }

  template <bool kInverse, class Load, class Store>
  static void run_stage(const Stage& of, const Load load, const Store store) {
    switch (of.radix) {
      case 2: return run<kInverse, 2>(of, load, store);
      case 3: return run<kInverse, 3>(of, load, store);
      case 4: return run<kInverse, 4>(of, load, store);
      case 5: return run<kInverse, 5>(of, load, store);
      case 6: return run<kInverse, 6>(of, load, store);
      default: return run<kInverse, 8>(of, load, store);
    }
  }

  template <bool kInverse, int radix, class Load, class Store>
  __attribute__((noinline)) static void run(const Stage of, const Load load, const Store store) {
    const int rest = of.length / radix, stride = of.stride;
    const Root* turns = of.turns;
    const auto one = [&](int q, int s, auto turned) ARCHCOST_FLAT {
      Complex x[radix];
#pragma GCC unroll 8
      for (int j = 0; j < radix; ++j) x[j] = load(s + stride * (q + rest * j));
      butterfly<kInverse>(x);
      store(s + stride * radix * q, x[0]);
#pragma GCC unroll 8
      for (int k = 1; k < radix; ++k) {
        store(s + stride * (radix * q + k), turned ? rotated<kInverse>(x[k], turns[k]) : x[k]);
      }
    };
    for (int s = 0; s < stride; ++s) one(0, s, std::false_type());
    for (int q = 1; q < rest; ++q) {
      turns += radix;
      for (int s = 0; s < stride; ++s) one(q, s, std::true_type());
    }
  }

  std::vector<Stage> stages_;
  std::vector<Root> roots_;  // of unity, of order `size`
  std::vector<Root> turns_;  // stage after stage
};

// Made when first asked for, and kept.
const RealFft& real_fft(int size);

}  // namespace archcost
