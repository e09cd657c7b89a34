#include "matrix_product.h"

#include <algorithm>

#include "vector.h"

namespace archcost {
namespace {

// Fetches to the second-level cache: the panel that comes next, while this one is multiplied.
ARCHCOST_INLINE void fetch_soon(const float* line) { __builtin_prefetch(line, 0, 2); }

// kHeight rows of the result, kVectors vectors wide, kept in registers while the depth runs by.
template <int kHeight, int kVectors>
void multiply_rows(long depth, const float* left, long left_stride, const float* panel, float* result,
                   long result_stride, const float* next) {
  Vector sum[kHeight][kVectors] = {};
  for (long done = 0; done < depth; done += kLanes, left += left_stride) {
    const long chunk = std::min<long>(kLanes, depth - done);
    for (long k = 0; k < chunk; ++k, panel += kVectors * kLanes, next += kLanes) {
      fetch_soon(next);
      Vector weights[kVectors];
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) weights[j] = load(panel + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kHeight; ++i) {
        const Vector factor = broadcast(left[i * kLanes + k]);
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) sum[i][j] += factor * weights[j];
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kHeight; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) store(result + j * result_stride + i * kLanes, sum[i][j]);
  }
}

using MultiplyRows = void (*)(long, const float*, long, const float*, float*, long, const float*);

template <int kVectors, int... less>
MultiplyRows multiply_of_height(int rows, std::integer_sequence<int, less...>) {
  static constexpr MultiplyRows all[] = {multiply_rows<less + 1, kVectors>...};
  return all[rows - 1];
}

// One panel with all rows, in groups of nearly equal height.
template <int kVectors>
void multiply_panel(long rows, long depth, const float* left, long left_stride, const float* panel,
                    float* result, long result_stride, const float* next) {
  const long groups = divide_up(rows, kRows);
  for (long group = 0, row = 0; group < groups; ++group) {
    const int height = int(divide_up(rows - row, groups - group));
    // The first groups fetch the next panel, each a share; the others fetch what they have.
    const float* fetched = group < kVectors ? next + group * depth * kLanes : panel;
    const MultiplyRows multiply =
        multiply_of_height<kVectors>(height, std::make_integer_sequence<int, kRows>{});
    multiply(depth, left + row * kLanes, left_stride, panel, result + row * kLanes, result_stride,
             fetched);
    row += height;
  }
}

// Rows of a complex result whose sums stay in registers, two vectors wide.
constexpr int kComplexRows = kRows > 8 ? 6 : 2;

struct ComplexPart {
  ComplexLeft left, panel;
  ComplexResult result;
  ComplexLeft next;  // fetched meanwhile
};

template <int kHeight, int kVectors>
void multiply_complex_rows(long depth, long left_stride, long result_stride, ComplexPart of) {
  Vector re[kHeight][kVectors] = {}, im[kHeight][kVectors] = {};
  for (long done = 0; done < depth; done += kLanes) {
    const long chunk = std::min<long>(kLanes, depth - done);
    for (long k = 0; k < chunk; ++k) {
      fetch_soon(of.next.re);
      fetch_soon(of.next.im);
      of.next.re += kLanes, of.next.im += kLanes;
      Vector weight_re[kVectors], weight_im[kVectors];
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) {
        weight_re[j] = load(of.panel.re + j * kLanes);
        weight_im[j] = load(of.panel.im + j * kLanes);
      }
      of.panel.re += kVectors * kLanes, of.panel.im += kVectors * kLanes;
#pragma GCC unroll 6
      for (int i = 0; i < kHeight; ++i) {
        const Vector left_re = broadcast(of.left.re[i * kLanes + k]), left_im = broadcast(of.left.im[i * kLanes + k]);
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) {
          re[i][j] += left_re * weight_re[j];
          im[i][j] += left_re * weight_im[j];
          re[i][j] -= left_im * weight_im[j];
          im[i][j] += left_im * weight_re[j];
        }
      }
    }
    of.left.re += left_stride, of.left.im += left_stride;
  }
#pragma GCC unroll 6
  for (int i = 0; i < kHeight; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      store(of.result.re + j * result_stride + i * kLanes, re[i][j]);
      store(of.result.im + j * result_stride + i * kLanes, im[i][j]);
    }
  }
}

using MultiplyComplexRows = void (*)(long, long, long, ComplexPart);

template <int kVectors, int... less>
MultiplyComplexRows multiply_complex_of_height(long rows, std::integer_sequence<int, less...>) {
  static constexpr MultiplyComplexRows all[] = {multiply_complex_rows<less + 1, kVectors>...};
  return all[rows - 1];
}

template <int kVectors>
void multiply_complex_panel(long rows, long depth, long left_stride, long result_stride, const ComplexPart& of) {
  const long groups = divide_up(rows, kComplexRows), share = depth * kLanes;
  for (long group = 0, row = 0; group < groups; ++group) {
    const long height = divide_up(rows - row, groups - group), at = row * kLanes;
    const bool fetches = group < kVectors;
    const ComplexLeft next = {fetches ? of.next.re + group * share : of.panel.re,
                              fetches ? of.next.im + group * share : of.panel.im};
    const ComplexPart part = {
        {of.left.re + at, of.left.im + at}, of.panel, {of.result.re + at, of.result.im + at}, next};
    const auto multiply =
        multiply_complex_of_height<kVectors>(height, std::make_integer_sequence<int, kComplexRows>{});
    multiply(depth, left_stride, result_stride, part);
    row += height;
  }
}

}  // namespace

void complex_matrix_product(long rows, long depth, long column_chunks, ComplexLeft left, long left_stride,
                            ComplexLeft panels, ComplexResult result, long result_stride) {
  for (long column = 0; column < column_chunks; column += kPanelVectors) {
    const bool whole = column + kPanelVectors <= column_chunks;
    const long floats = (whole ? kPanelVectors : 1) * depth * kLanes;
    const ComplexLeft next = {panels.re + floats, panels.im + floats};
    (whole ? multiply_complex_panel<kPanelVectors>
           : multiply_complex_panel<1>)(rows, depth, left_stride, result_stride, {left, panels, result, next});
    panels = next;
    result.re += kPanelVectors * result_stride, result.im += kPanelVectors * result_stride;
  }
}

void matrix_product(long rows, long depth, long column_chunks, const float* left, long left_stride,
                    const float* panels, float* result, long result_stride) {
  for (long column = 0; column < column_chunks; column += kPanelVectors) {
    const bool whole = column + kPanelVectors <= column_chunks;
    const float* const next = panels + (whole ? kPanelVectors : 1) * depth * kLanes;
    (whole ? multiply_panel<kPanelVectors> : multiply_panel<1>)(rows, depth, left, left_stride, panels,
                                                                result, result_stride, next);
    panels = next;
    result += kPanelVectors * result_stride;
  }
}

}  // namespace archcost
