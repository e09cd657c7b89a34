// Complex vectors, and the Fourier transforms of a few of them, in place.
#pragma once

#include "vector.h"

namespace archcost {

struct Complex {
  Vector re, im;
};

// A root of unity, the same for all lanes.
struct Root {
  float re, im;
};

ARCHCOST_INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
ARCHCOST_INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
ARCHCOST_INLINE Complex operator*(float a, Complex b) { return {a * b.re, a * b.im}; }
ARCHCOST_INLINE Complex conjugate(Complex a) { return {a.re, -a.im}; }

// Times a root of unity on the way to the spectrum, times its conjugate on the way back.
template <bool kInverse>
ARCHCOST_INLINE Complex rotated(Complex a, Root by) {
  if constexpr (kInverse) return {a.re * by.re + a.im * by.im, a.im * by.re - a.re * by.im};
  return {a.re * by.re - a.im * by.im, a.re * by.im + a.im * by.re};
}

// Times -i on the way to the spectrum, times i on the way back.
template <bool kInverse>
ARCHCOST_INLINE Complex quarter_turn(Complex a) {
  return kInverse ? Complex{-a.im, a.re} : Complex{a.im, -a.re};
}

template <bool kInverse>
ARCHCOST_INLINE void butterfly(Complex (&x)[2]) {
  const Complex sum = x[0] + x[1];
  x[1] = x[0] - x[1];
  x[0] = sum;
}

template <bool kInverse>
ARCHCOST_INLINE void butterfly(Complex (&x)[3]) {
  constexpr float kSine = 0.86602540378443864676f;
  const Complex sum = x[1] + x[2], turned = quarter_turn<kInverse>(x[1] - x[2]);
  const Complex middle = x[0] - 0.5f * sum;
  x[0] = x[0] + sum;
  x[1] = middle + kSine * turned;
  x[2] = middle - kSine * turned;
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

// Two of three, three of two: no roots in between, as 2 and 3 have no factor in common (I. J. Good, 1958).
template <bool kInverse>
ARCHCOST_INLINE void butterfly(Complex (&x)[6]) {
  Complex even[3] = {x[0], x[2], x[4]}, odd[3] = {x[3], x[5], x[1]};
  butterfly<kInverse>(even);
  butterfly<kInverse>(odd);
  x[0] = even[0] + odd[0], x[3] = even[0] - odd[0];
  x[4] = even[1] + odd[1], x[1] = even[1] - odd[1];
  x[2] = even[2] + odd[2], x[5] = even[2] - odd[2];
}

template <bool kInverse>
ARCHCOST_INLINE void butterfly(Complex (&x)[8]) {
  constexpr float kHalfRoot = 0.70710678118654752440f;
  Complex even[4] = {x[0], x[2], x[4], x[6]}, odd[4] = {x[1], x[3], x[5], x[7]};
  butterfly<kInverse>(even);
  butterfly<kInverse>(odd);
  // Times the roots of order 8; the half root of the odd ones comes with the sums.
  const Complex turned1 = odd[1] + quarter_turn<kInverse>(odd[1]), turned2 = quarter_turn<kInverse>(odd[2]);
  const Complex turned3 = quarter_turn<kInverse>(odd[3]) - odd[3];
  x[0] = even[0] + odd[0], x[4] = even[0] - odd[0];
  x[1] = even[1] + kHalfRoot * turned1, x[5] = even[1] - kHalfRoot * turned1;
  x[2] = even[2] + turned2, x[6] = even[2] - turned2;
  x[3] = even[3] + kHalfRoot * turned3, x[7] = even[3] - kHalfRoot * turned3;
}

}  // namespace archcost
