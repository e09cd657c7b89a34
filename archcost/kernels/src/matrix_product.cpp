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

}  // namespace

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
