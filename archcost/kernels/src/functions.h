// Functions of vectors at the accuracy of a float. What is not a number stays so; what is huge does not become so.
#pragma once

#include <utility>

#include "activation.h"
#include "normal_table.h"
#include "vector.h"

namespace archcost {

ARCHCOST_INLINE Vector magnitude(Vector value) { return Vector(IntVector(value) & 0x7fffffff); }

// c[0] + c[1] x + ..., by Horner's rule.
template <int kCount>
ARCHCOST_INLINE Vector polynomial(Vector x, const float (&c)[kCount]) {
  Vector sum = broadcast(c[kCount - 1]);
#pragma GCC unroll 8
  for (int i = kCount - 2; i >= 0; --i) sum = sum * x + c[i];
  return sum;
}

// exp(kSign * x) is 2^count * exp(rest), where count is a multiple of 1 / kParts: rounding by a number that leaves no
// other bits behind the point.
template <int kSign, int kParts>
struct Exponent {
  static constexpr float kRound = 12582912.0f / kParts;  // 1.5 * 2^23
#if defined(__AVX512F__)
  static constexpr float kLeast = -110.0f, kMost = 90.0f;
#else
  static constexpr float kLeast = -87.9f, kMost = 88.7228f;
#endif

  // At the bounds the power is zero and infinity.
  ARCHCOST_INLINE explicit Exponent(Vector x) {
    x = at_most(at_least(x, broadcast(kSign > 0 ? kLeast : -kMost)), broadcast(kSign > 0 ? kMost : -kLeast));
    shifted = x * (kSign * 1.44269504f) + kRound;
    count = shifted - kRound;
#if defined(__FMA__) || defined(__aarch64__)
    rest = (kSign > 0 ? x : -x) - count * 0.693147181f;
#else
    rest = (kSign > 0 ? x : -x) - count * 0.693359375f + count * 2.12194440e-4f;
#endif
  }

  // factor * 2^count; of a count with parts, 2 to the whole number below it.
  ARCHCOST_INLINE Vector power(Vector factor) const {
#if defined(__AVX512F__)
    return Vector(_mm512_maskz_scalef_ps(0xffff, __m512(factor), __m512(count)));
#else
    // By a product, not a sum of bits, so that what is not a number stays so.
    return factor * Vector((IntVector(shifted) << 23) + (127 << 23));
#endif
  }

  Vector shifted, count, rest;
};

#if defined(__AVX512F__)
// The numbers of a table of 32 that the low bits of the indices say.
ARCHCOST_INLINE Vector look_up(const float (&table)[32], Vector indices) {
  return Vector(_mm512_permutex2var_ps(__m512(load(table)), __m512i(indices), __m512(load(table + 16))));
}

// 2^(i / 32).
alignas(64) constexpr float kPowers[32] = {
    1.0f, 1.02189715f, 1.04427378f, 1.0671404f, 1.09050773f, 1.11438674f, 1.13878863f, 1.16372486f,
    1.18920712f, 1.21524736f, 1.24185781f, 1.26905096f, 1.29683955f, 1.32523664f, 1.35425555f, 1.38390988f,
    1.41421356f, 1.44518081f, 1.47682615f, 1.50916443f, 1.54221083f, 1.57598085f, 1.61049033f, 1.64575548f,
    1.68179283f, 1.7186193f, 1.75625216f, 1.79470908f, 1.83400809f, 1.87416763f, 1.91520656f, 1.95714412f,
};
#endif

// exp(kSign * x). Relative error 3e-7; zero below -88, or a number too small to be normal.
template <int kSign = 1>
ARCHCOST_INLINE Vector exponential(Vector x) {
#if defined(__AVX512F__)
  constexpr float c[] = {1.0f, 1.00001467f, 0.49999998f};
  const Exponent<kSign, 32> split(x);
  return split.power(polynomial(split.rest, c) * look_up(kPowers, split.shifted));
#else
  constexpr float c[] = {1.0f, 0.99999971f, 0.49999148f, 0.16667638f, 0.04189817f, 0.0082903f};
  const Exponent<kSign, 1> split(x);
  return split.power(polynomial(split.rest, c));
#endif
}

// exp(x) - 1, with all digits also near zero.
ARCHCOST_INLINE Vector exponential_less_one(Vector x) {
  constexpr float c[] = {1.00000003f, 0.49999994f, 0.16666431f, 0.04166802f, 0.00837421f, 0.0013843f};
  const Exponent<1, 1> split(x);
  const Vector scale = split.power(broadcast(1.0f));
  return scale * (split.rest * polynomial(split.rest, c)) + (scale - 1.0f);
}

ARCHCOST_INLINE Vector sigmoid(Vector x) { return 1.0f / (1.0f + exponential<-1>(x)); }

// Of a number from 0 to 1, by the series of the inverse hyperbolic tangent.
ARCHCOST_INLINE Vector logarithm_of_one_more(Vector x) {
  constexpr float c[] = {2.0f, 0.666666667f, 0.4f, 0.285714286f, 0.222222222f, 0.181818182f, 0.153846154f};
  const Vector ratio = x / (2.0f + x);
  return ratio * polynomial(ratio * ratio, c);
}

// A quotient of polynomials. At the bounds exactly one: what huge arguments are multiplied by must not be off.
ARCHCOST_INLINE Vector hyperbolic_tangent(Vector x) {
  constexpr float above[] = {4.89352455891786e-03f, 6.37261928875436e-04f, 1.48572235717979e-05f, 5.12229709037114e-08f,
                             -8.60467152213735e-11f, 2.00018790482477e-13f, -2.76076847742355e-16f};
  constexpr float below[] = {4.89352518554385e-03f, 2.26843463243900e-03f, 1.18534705686654e-04f,
                             1.19825839466702e-06f};
  constexpr float kMost = 7.99881172180175781f;
  x = within(x, broadcast(-kMost), broadcast(kMost));
  const Vector square = x * x;
  const Vector one = Vector((IntVector(x) & int(0x80000000)) | 0x3f800000);
  return magnitude(x) >= kMost ? one : x * polynomial(square, above) / polynomial(square, below);
}

// One function object for each kind.
struct Identity {
  explicit Identity(const ArchcostActivation&) {}
  ARCHCOST_INLINE Vector operator()(Vector x) const { return x; }
};

struct Clamp {
  explicit Clamp(const ArchcostActivation& of) : low(broadcast(of.low)), high(broadcast(of.high)) {}
  ARCHCOST_INLINE Vector operator()(Vector x) const { return within(x, low, high); }
  const Vector low, high;
};

struct Silu : Identity {
  using Identity::Identity;
  ARCHCOST_INLINE Vector operator()(Vector x) const { return x / (1.0f + exponential<-1>(x)); }
};

struct Hardsigmoid : Identity {
  using Identity::Identity;
  ARCHCOST_INLINE Vector operator()(Vector x) const {
    return at_most(at_least(x + 3.0f, Vector{}), broadcast(6.0f)) * (1.0f / 6.0f);
  }
};

struct Hardswish : Identity {
  using Identity::Identity;
  ARCHCOST_INLINE Vector operator()(Vector x) const {
    return x * (1.0f / 6.0f) * at_most(at_least(x + 3.0f, Vector{}), broadcast(6.0f));
  }
};

struct Sigmoid : Identity {
  using Identity::Identity;
  ARCHCOST_INLINE Vector operator()(Vector x) const { return sigmoid(x); }
};

struct Tanh : Identity {
  using Identity::Identity;
  ARCHCOST_INLINE Vector operator()(Vector x) const { return hyperbolic_tangent(x); }
};

// x times the normal distribution. That is looked up, else it is a half and an odd quotient of polynomials.
struct Gelu : Identity {
  using Identity::Identity;
  ARCHCOST_INLINE Vector operator()(Vector x) const {
#if defined(__AVX512F__)
    constexpr float kRound = 12582912.0f + 16;
    const Vector near = at_most(at_least(x, broadcast(-16 * kNormalStep)), broadcast(15 * kNormalStep));
    const Vector shifted = near * (1 / kNormalStep) + kRound;
    const Vector off = near - (shifted - kRound) * kNormalStep;
    Vector sum = look_up(kNormal[4], shifted);
#pragma GCC unroll 4
    for (int i = 3; i >= 0; --i) sum = sum * off + look_up(kNormal[i], shifted);
    return x * sum;
#else
    constexpr float above[] = {3.989422473e-01f, 3.335718998e-02f, 4.649894994e-03f,
                               1.641626137e-04f, 6.358410841e-06f, 2.339566150e-08f};
    constexpr float below[] = {1.0f,             2.502801848e-01f, 2.836998385e-02f,
                               1.858092335e-03f, 7.234619533e-05f, 1.216730133e-06f};
    // At the lower bound the quotient is beyond a half by more than it errs: the product becomes zero.
    const Vector near = at_most(at_least(x, broadcast(-5.62f)), broadcast(5.4f));
    const Vector square = near * near;
    return x * at_least(near * polynomial(square, above) / polynomial(square, below) + 0.5f, Vector{});
#endif
  }
};

struct GeluTanh : Identity {
  using Identity::Identity;
  ARCHCOST_INLINE Vector operator()(Vector x) const {
    const Vector inner = x * (x * x * (0.044715f * 0.797884561f) + 0.797884561f);
    const Vector half = x * 0.5f;
    return half * hyperbolic_tangent(inner) + half;
  }
};

struct LeakyRelu {
  explicit LeakyRelu(const ArchcostActivation& of) : slope(broadcast(of.low)) {}
  ARCHCOST_INLINE Vector operator()(Vector x) const { return x > 0.0f ? x : x * slope; }
  const Vector slope;
};

struct Elu {
  explicit Elu(const ArchcostActivation& of) : alpha(broadcast(of.low)) {}
  ARCHCOST_INLINE Vector operator()(Vector x) const { return x > 0.0f ? x : alpha * exponential_less_one(x); }
  const Vector alpha;
};

// x tanh(log(1 + e)) with e = exp(x) is x n / (n + 2) with n = e (e + 2).
struct Mish : Identity {
  using Identity::Identity;
  ARCHCOST_INLINE Vector operator()(Vector x) const {
    const Vector e = exponential(at_most(x, broadcast(30.0f)));
    const Vector n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
  }
};

struct Softplus : Identity {
  using Identity::Identity;
  ARCHCOST_INLINE Vector operator()(Vector x) const {
    return at_least(x, Vector{}) + logarithm_of_one_more(exponential<-1>(magnitude(x)));
  }
};

// use(Silu(of)) for the kind of this activation, and so on.
template <class Use>
void with_function(const ArchcostActivation& of, Use&& use) {
  switch (of.kind) {
    case kIdentity: return use(Identity(of));
    case kClamp: return use(Clamp(of));
    case kSilu: return use(Silu(of));
    case kHardswish: return use(Hardswish(of));
    case kHardsigmoid: return use(Hardsigmoid(of));
    case kSigmoid: return use(Sigmoid(of));
    case kGelu: return use(Gelu(of));
    case kGeluTanh: return use(GeluTanh(of));
    case kLeakyRelu: return use(LeakyRelu(of));
    case kTanh: return use(Tanh(of));
    case kElu: return use(Elu(of));
    case kMish: return use(Mish(of));
    case kSoftplus: return use(Softplus(of));
  }
}

}  // namespace archcost
