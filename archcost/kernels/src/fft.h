// Fourier transforms of real signals, as many at a time as a vector has lanes.
#pragma once

#include <vector>

#include "vector.h"

namespace archcost {

struct Complex {
  Vector re, im;
};

// The transform of `size` real vectors: an even number whose half has no prime factor above 5. It is computed
// as a complex transform of half the size (Stockham's, which needs no reordering), then taken apart.
class RealFft {
 public:
  static constexpr int kMostSize = 512;
  // The smallest size there is that is at least so large; 0 if there is none.
  static int at_least(long size);

  explicit RealFft(int size);

  // spectrum[k] for k = 0 .. size / 2. The signal is spoilt.
  void forward(Vector* signal, Complex* spectrum) const;
  // The signal times `size`. The spectrum is spoilt.
  void backward(Complex* spectrum, Vector* signal) const;

  const int size;

 private:
  struct Root {
    float re, im;
  };
  // Ends in `a` or in `b`; returns where.
  template <bool kInverse>
  Complex* transform(Complex* a, Complex* b) const;

  std::vector<int> radices_;
  std::vector<Root> roots_;  // of unity, of order `size`
  std::vector<Root> turns_;  // those that the stages multiply by, stage after stage
};

// Made when first asked for, and kept.
const RealFft& real_fft(int size);

}  // namespace archcost
