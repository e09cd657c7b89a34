#include "copy.h"

#include <algorithm>
#include <cstring>

#include "export.h"
#include "threads.h"
#include "vector.h"

namespace archcost {
namespace {

constexpr int kOuter = kArchcostMostDimensions - 2;

// The two innermost dimensions, a square at a time, so that lines of the cache are used whole on either side.
void copy_plane(const ArchcostCopy& of, const float* from, float* to) {
  constexpr long kSquare = 16;
  const long rows = of.sizes[kOuter], columns = of.sizes[kOuter + 1];
  const long in_row = of.in_strides[kOuter], in_column = of.in_strides[kOuter + 1];
  const long out_row = of.out_strides[kOuter], out_column = of.out_strides[kOuter + 1];
  if (in_column == 1 && out_column == 1) {
    for (long i = 0; i < rows; ++i) std::memcpy(to + i * out_row, from + i * in_row, columns * sizeof(float));
    return;
  }
  for (long top = 0; top < rows; top += kSquare) {
    const long below = std::min(top + kSquare, rows);
    for (long left = 0; left < columns; left += kSquare) {
      const long right = std::min(left + kSquare, columns);
      for (long i = top; i < below; ++i) {
        for (long j = left; j < right; ++j) {
          to[i * out_row + j * out_column] = from[i * in_row + j * in_column];
        }
      }
    }
  }
}

}  // namespace
}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_copy(const void* arguments, float* const* places, int threads) {
  const auto& of = *static_cast<const ArchcostCopy*>(arguments);
  long planes = 1;
  for (int dim = 0; dim < archcost::kOuter; ++dim) planes *= of.sizes[dim];
  archcost::parallel_for(threads, planes, [&](long plane, int) {
    const float* from = places[0];
    float* to = places[1];
    for (int dim = archcost::kOuter - 1; dim >= 0; --dim) {
      from += plane % of.sizes[dim] * of.in_strides[dim];
      to += plane % of.sizes[dim] * of.out_strides[dim];
      plane /= of.sizes[dim];
    }
    archcost::copy_plane(of, from, to);
  });
}
