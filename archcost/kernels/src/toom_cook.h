// The matrices of Winograd's convolution F(m, r), derived while compiling, in exact fractions.
//
// m outputs of a correlation with r taps need n = m + r - 1 multiplications: y = A^T [(G g) * (B^T d)].
// The construction is Toom and Cook's: evaluate both polynomials at n - 1 points and at infinity, multiply,
// interpolate; for a correlation it is transposed, so that the interpolation falls on the input d.
// Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308.
#pragma once

#include <cstdint>

namespace archcost {

class Fraction {
 public:
  constexpr Fraction(std::int64_t numerator = 0, std::int64_t denominator = 1) {
    const std::int64_t sign = denominator < 0 ? -1 : 1;
    const std::int64_t common = gcd(numerator < 0 ? -numerator : numerator, sign * denominator);
    numerator_ = sign * numerator / common;
    denominator_ = sign * denominator / common;
  }
  constexpr Fraction operator+(Fraction b) const {
    return {numerator_ * b.denominator_ + b.numerator_ * denominator_, denominator_ * b.denominator_};
  }
  constexpr Fraction operator-() const { return {-numerator_, denominator_}; }
  constexpr Fraction operator-(Fraction b) const { return *this + -b; }
  constexpr Fraction operator*(Fraction b) const {
    return {numerator_ * b.numerator_, denominator_ * b.denominator_};
  }
  constexpr Fraction operator/(Fraction b) const {
    return {numerator_ * b.denominator_, denominator_ * b.numerator_};
  }
  constexpr bool negative() const { return numerator_ < 0; }
  constexpr bool zero() const { return numerator_ == 0; }
  constexpr double value() const { return double(numerator_) / double(denominator_); }

 private:
  static constexpr std::int64_t gcd(std::int64_t a, std::int64_t b) {
    while (b) {
      const std::int64_t rest = a % b;
      a = b;
      b = rest;
    }
    return a ? a : 1;
  }
  std::int64_t numerator_ = 0, denominator_ = 1;
};

template <int Rows, int Columns>
struct Matrix {
  static constexpr int rows = Rows, columns = Columns;
  double at[Rows][Columns] = {};
};

// The points decide the rounding error. Small ones come first; 3/4 and -4/3 in place of 4 and -4 make
// F(6x6, 5x5) twenty times as exact.
constexpr Fraction kPoints[] = {{0},    {1},    {-1},    {2}, {-2},   {1, 2},
                                {-1, 2}, {3, 4}, {-4, 3}, {4}, {-1, 4}};

template <int m, int r>
struct ToomCook {
  static constexpr int n = m + r - 1;
  Matrix<n, n> input;    // B^T
  Matrix<n, r> weight;   // G
  Matrix<m, n> output;   // A^T

  constexpr ToomCook() : input(), weight(), output() {
    static_assert(n - 1 <= int(sizeof(kPoints) / sizeof(kPoints[0])), "more multiplications than points");
    for (int i = 0; i < n; ++i) {
      Fraction polynomial[n] = {};
      product_without(i, polynomial);
      const Fraction scale = i < n - 1 ? value_at(polynomial, kPoints[i]) : Fraction(1);
      // Signs are free between the two: the first coefficient of a row of B^T is made positive.
      const Fraction sign = first_is_negative(polynomial) ? Fraction(-1) : Fraction(1);
      for (int j = 0; j < n; ++j) input.at[i][j] = (sign * polynomial[j]).value();
      for (int j = 0; j < r; ++j) weight.at[i][j] = (sign * power(i, j, r) / scale).value();
      for (int j = 0; j < m; ++j) output.at[j][i] = power(i, j, m).value();
    }
  }

 private:
  // The j-th power of point i; the point at infinity sees the last coefficient alone.
  static constexpr Fraction power(int i, int j, int length) {
    if (i == n - 1) return j == length - 1 ? 1 : 0;
    Fraction result = 1;
    for (int k = 0; k < j; ++k) result = result * kPoints[i];
    return result;
  }
  // The coefficients of the product of (x - point k) over all k but i.
  static constexpr void product_without(int i, Fraction (&polynomial)[n]) {
    polynomial[0] = 1;
    for (int k = 0; k < n - 1; ++k) {
      if (k == i) continue;
      for (int j = n - 1; j > 0; --j) polynomial[j] = polynomial[j - 1] - kPoints[k] * polynomial[j];
      polynomial[0] = -kPoints[k] * polynomial[0];
    }
  }
  static constexpr Fraction value_at(const Fraction (&polynomial)[n], Fraction x) {
    Fraction result = 0;
    for (int j = n - 1; j >= 0; --j) result = result * x + polynomial[j];
    return result;
  }
  static constexpr bool first_is_negative(const Fraction (&polynomial)[n]) {
    for (int j = 0; j < n; ++j) {
      if (!polynomial[j].zero()) return polynomial[j].negative();
    }
    return false;
  }
};

}  // namespace archcost
