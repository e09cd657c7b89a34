#include "interpolate.h"

#include <algorithm>

#include "export.h"
#include "items.h"
#include "scratch.h"
#include "vector.h"

namespace archcost {
namespace {

// Between two positions of the input.
struct Between {
  long first, second;
  float share;  // of the second
};

Between between(std::int64_t mode, long at, float scale, long size) {
  const float middle = (float(at) + 0.5f) * scale;
  if (mode == kNearest || mode == kNearestExact) {
    const long first = std::min(long(mode == kNearest ? float(at) * scale : middle), size - 1);
    return {first, first, 0.0f};
  }
  const float from = mode == kBilinearAligned ? float(at) * scale : std::max(middle - 0.5f, 0.0f);
  const long first = std::min(long(from), size - 1);
  return {first, std::min(first + 1, size - 1), std::clamp(from - float(first), 0.0f, 1.0f)};
}

ARCHCOST_INLINE Vector mixed(Vector first, Vector second, float share) {
  return first * (1.0f - share) + second * share;
}

void interpolate(const ArchcostInterpolation& of, const float* input, float* output, int threads) {
  const ArchcostImages &from = of.input, &to = of.output;
  const long blocks = divide_up(to.channels, kLanes);
  const bool nearest = of.mode == kNearest || of.mode == kNearestExact;
  const Scratch scratch(to.width * (sizeof(Between) / sizeof(float)));
  Between* const columns = reinterpret_cast<Between*>(scratch.data());
  for (long j = 0; j < to.width; ++j) {
    columns[j] = between(of.mode, j, of.column_scale, from.width);
    columns[j].first *= from.column_stride, columns[j].second *= from.column_stride;
  }
  for_items(threads, to.batch * blocks, [&](long item, int) {
    const long n = item / blocks, block = item % blocks;
    const float* const image = input + n * from.batch_stride + block * from.block_stride;
    float* const result = output + n * to.batch_stride + block * to.block_stride;
    for (long i = 0; i < to.height; ++i) {
      const Between rows = between(of.mode, i, of.row_scale, from.height);
      const float *const upper = image + rows.first * from.row_stride, *const lower = image + rows.second * from.row_stride;
      float* const line = result + i * to.row_stride;
      for (long j = 0; j < to.width; ++j) {
        const Between& column = columns[j];
        Vector value = load(upper + column.first);
        if (!nearest) {
          const Vector left = mixed(value, load(lower + column.first), rows.share);
          const Vector right = mixed(load(upper + column.second), load(lower + column.second), rows.share);
          value = mixed(left, right, column.share);
        }
        store(line + j * to.column_stride, value);
      }
    }
  });
}

}  // namespace
}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_interpolate(const void* arguments, float* const* places, int threads) {
  archcost::interpolate(*static_cast<const ArchcostInterpolation*>(arguments), places[0], places[1], threads);
}
