// y = M x for a matrix known while compiling: straight-line code on vectors, without the zeros and the ones.
#pragma once

#include <type_traits>
#include <utility>

#include "toom_cook.h"
#include "vector.h"

namespace archcost {

// Which of a row's terms a sum takes. The rows of the points p and -p differ in signs alone: each is the
// sum or the difference of what they share and what they oppose, and that halves the multiplications.
enum class Terms { all, shared, opposed };

// Of is a type with `static constexpr Matrix<...> matrix`, since a matrix itself is no template argument.
template <class Of>
struct Rows {
  using M = std::remove_const_t<decltype(Of::matrix)>;

  static constexpr double at(int i, int j) { return Of::matrix.at[i][j]; }

  static constexpr bool takes(int i, int mate, Terms terms, int j) {
    if (at(i, j) == 0) return false;
    return terms == Terms::all || (terms == Terms::shared) == (at(i, j) == at(mate, j));
  }

  // The other row with the same magnitudes, some of its signs the same and some opposite; else -1.
  static constexpr int mate(int i) {
    for (int k = 0; k < M::rows; ++k) {
      bool magnitudes = k != i, shared = false, opposed = false;
      for (int j = 0; j < M::columns && magnitudes; ++j) {
        const double a = at(i, j), b = at(k, j);
        magnitudes = a == b || a == -b;
        shared = shared || (a != 0 && a == b);
        opposed = opposed || (a != 0 && a == -b);
      }
      if (magnitudes && shared && opposed) return k;
    }
    return -1;
  }

  // The term a sum begins with: a coefficient of one, if there is any, costs no multiplication.
  static constexpr int first(int i, int mate, Terms terms) {
    for (int j = 0; j < M::columns; ++j) {
      if (takes(i, mate, terms, j) && at(i, j) == 1) return j;
    }
    for (int j = 0; j < M::columns; ++j) {
      if (takes(i, mate, terms, j)) return j;
    }
    return -1;
  }

  template <int i, int mate, Terms terms, int j>
  static ARCHCOST_INLINE Vector add_rest(const Vector* x, Vector sum) {
    if constexpr (j == M::columns) {
      return sum;
    } else {
      if constexpr (takes(i, mate, terms, j) && j != first(i, mate, terms)) {
        constexpr float factor = float(at(i, j));
        if constexpr (factor == 1) {
          sum = sum + x[j];
        } else if constexpr (factor == -1) {
          sum = sum - x[j];
        } else {
          sum = sum + factor * x[j];
        }
      }
      return add_rest<i, mate, terms, j + 1>(x, sum);
    }
  }

  template <int i, int mate, Terms terms>
  static ARCHCOST_INLINE Vector sum(const Vector* x) {
    constexpr int begin = first(i, mate, terms);
    if constexpr (begin < 0) {
      return Vector{};
    } else {
      constexpr float factor = float(at(i, begin));
      Vector total = x[begin];
      if constexpr (factor != 1) total = factor * total;
      return add_rest<i, mate, terms, 0>(x, total);
    }
  }

  template <int i>
  static ARCHCOST_INLINE void row(const Vector* x, Vector* y) {
    constexpr int other = mate(i);
    if constexpr (other < 0) {
      y[i] = sum<i, i, Terms::all>(x);
    } else if constexpr (i < other) {
      const Vector shared = sum<i, other, Terms::shared>(x), opposed = sum<i, other, Terms::opposed>(x);
      y[i] = shared + opposed;
      y[other] = shared - opposed;
    }
  }

  template <int... i>
  static ARCHCOST_INLINE void all(const Vector* x, Vector* y, std::integer_sequence<int, i...>) {
    (row<i>(x, y), ...);
  }
};

template <class Of>
ARCHCOST_INLINE void multiply(const Vector* x, Vector* y) {
  Rows<Of>::all(x, y, std::make_integer_sequence<int, Rows<Of>::M::rows>{});
}

// The same for a matrix whose columns come in pairs alike but for signs, as those of p and -p in A^T do:
// first the sum and the difference of each pair of inputs, then what is left of the matrix.
template <class Of>
struct Columns {
  using M = std::remove_const_t<decltype(Of::matrix)>;

  static constexpr int mate(int j) {
    for (int k = 0; k < M::columns; ++k) {
      bool magnitudes = k != j, shared = false, opposed = false;
      for (int i = 0; i < M::rows && magnitudes; ++i) {
        const double a = Of::matrix.at[i][j], b = Of::matrix.at[i][k];
        magnitudes = a == b || a == -b;
        shared = shared || (a != 0 && a == b);
        opposed = opposed || (a != 0 && a == -b);
      }
      if (magnitudes && shared && opposed) return k;
    }
    return -1;
  }

  static constexpr M folded() {
    M result = Of::matrix;
    for (int j = 0; j < M::columns; ++j) {
      const int other = mate(j);
      if (other < 0 || other < j) continue;
      for (int i = 0; i < M::rows; ++i) {
        const bool shared = Of::matrix.at[i][j] == Of::matrix.at[i][other];
        result.at[i][j] = shared ? Of::matrix.at[i][j] : 0;
        result.at[i][other] = shared ? 0 : Of::matrix.at[i][j];
      }
    }
    return result;
  }
  struct Folded {
    static constexpr M matrix = folded();
  };

  template <int j>
  static ARCHCOST_INLINE void fold(Vector* x) {
    constexpr int other = mate(j);
    if constexpr (j < other) {
      const Vector sum = x[j] + x[other], difference = x[j] - x[other];
      x[j] = sum;
      x[other] = difference;
    }
  }
  template <int... j>
  static ARCHCOST_INLINE void fold_all(Vector* x, std::integer_sequence<int, j...>) {
    (fold<j>(x), ...);
  }
};

// Spoils x.
template <class Of>
ARCHCOST_INLINE void multiply_folded(Vector* x, Vector* y) {
  using C = Columns<Of>;
  C::fold_all(x, std::make_integer_sequence<int, C::M::columns>{});
  multiply<typename C::Folded>(x, y);
}

}  // namespace archcost
