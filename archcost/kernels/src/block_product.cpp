#include "block_product.h"

#include <algorithm>
#include <cmath>

#include "matrix_product.h"

namespace archcost {
namespace {

// Processors address a base plus one or two steps: so many rows share a pointer.
constexpr int kRowsOfPointer = 3;

// The compiler is not to know how the pointers relate, or it computes each address from the first one.
template <class T>
ARCHCOST_INLINE void hide(T& value) {
  asm("" : "+r"(value));
}

template <int kHeight, int kVectors>
ARCHCOST_INLINE void add_stretches(Vector (&sum)[kHeight][kVectors], const Stretches& of, const float* left,
                                   long left_row, const float*& panel, const float*& next) {
  constexpr int kPointers = (kHeight + kRowsOfPointer - 1) / kRowsOfPointer;
  for (long stretch = 0; stretch < of.count; ++stretch) {
    const float* pointer[kPointers];
#pragma GCC unroll 5
    for (int p = 0; p < kPointers; ++p) {
      pointer[p] = left + of.offsets[stretch] + p * kRowsOfPointer * left_row;
      hide(pointer[p]);
    }
    for (long k = 0; k < of.length; ++k) {
      __builtin_prefetch(next, 0, 2);
      next += kLanes;
      Vector weights[kVectors];
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) weights[j] = load(panel + j * kLanes);
      panel += kVectors * kLanes;
#pragma GCC unroll 16
      for (int i = 0; i < kHeight; ++i) {
        const Vector factor = broadcast(pointer[i / kRowsOfPointer][i % kRowsOfPointer * left_row]);
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) sum[i][j] += factor * weights[j];
      }
#pragma GCC unroll 5
      for (int p = 0; p < kPointers; ++p) ++pointer[p];
    }
  }
}

// Where one group of rows and one panel meet.
struct Part {
  const RowGroup& group;
  long column;
  const float* panel;
  const float* next;  // to be fetched to the second-level cache meanwhile
};

template <int kHeight, int kVectors>
void multiply_rows(const BlockProduct& of, const Part& part) {
  Vector sum[kHeight][kVectors] = {};
  float* const result = part.group.result + part.column * of.result_chunk;
  // What is written at the end is fetched now.
  for (int i = 0; i < kHeight; ++i) {
    for (int j = 0; j < kVectors; ++j) __builtin_prefetch(result + i * of.result_row + j * of.result_chunk, 1);
  }
  if (of.adds) {
#pragma GCC unroll 16
    for (int i = 0; i < kHeight; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) sum[i][j] = load(result + i * of.result_row + j * of.result_chunk);
    }
  }
  const float *panel = part.panel, *next = part.next;
  add_stretches(sum, of.full, part.group.left, of.left_row, panel, next);
  add_stretches(sum, of.partial, part.group.left, of.left_row, panel, next);
  if (of.bias) {
    const bool bounded = of.limits->low > -INFINITY || of.limits->high < INFINITY;
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      const Finish finish(load(of.bias + (part.column + j) * kLanes), *of.limits);
#pragma GCC unroll 16
      for (int i = 0; i < kHeight; ++i) sum[i][j] = bounded ? finish(sum[i][j]) : sum[i][j] + finish.bias;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kHeight; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) store(result + i * of.result_row + j * of.result_chunk, sum[i][j]);
  }
}

using MultiplyRows = void (*)(const BlockProduct&, const Part&);

template <int kVectors, int... less>
MultiplyRows multiply_of_height(long rows, std::integer_sequence<int, less...>) {
  static constexpr MultiplyRows all[] = {multiply_rows<less + 1, kVectors>...};
  return all[rows - 1];
}

template <int kVectors>
void multiply_panel(const BlockProduct& of, long column, const float* panel, const float* next) {
  const long share = of.depth() * kLanes;
  for (long g = 0; g < of.group_count; ++g) {
    const RowGroup& group = of.groups[g];
    // The first panel fetches the rows of the next group. Else the first groups fetch the next panel, each a
    // share; the others fetch what they have.
    const float* fetched = g < kVectors ? next + g * share : panel;
    if (column == 0 && of.fetches_rows && g + 1 < of.group_count) fetched = of.groups[g + 1].left;
    const Part part = {group, column, panel, fetched};
    multiply_of_height<kVectors>(group.rows, std::make_integer_sequence<int, kRows>{})(of, part);
  }
}

}  // namespace

void multiply_block(const BlockProduct& of) {
  const auto panel = [&](long column) {
    const long vectors = std::min<long>(kPanelVectors, of.column_chunks - column);
    return of.panels + (column * of.whole_depth + vectors * of.first_depth) * kLanes;
  };
  for (long column = 0; column < of.column_chunks; column += kPanelVectors) {
    const bool whole = column + kPanelVectors <= of.column_chunks;
    const long following = column + kPanelVectors < of.column_chunks ? column + kPanelVectors : column;
    (whole ? multiply_panel<kPanelVectors> : multiply_panel<1>)(of, column, panel(column), panel(following));
  }
}

}  // namespace archcost
