#include "attention.h"

#include <algorithm>

#include "export.h"
#include "items.h"
#include "rows.h"
#include "scratch.h"

namespace archcost {
namespace {

// Floats of the scores that are worked on at a time.
constexpr long kScores = 1 << 15;

void matmul(const ArchcostMatmul& of, const float* a, const float* b, float* out, int threads) {
  const long count = of.batch * of.heads;
  const ArchcostLinear layer = {of.activation,   of.rows,           of.depth, of.columns,
                                of.a_row_stride, of.out_row_stride, 0};
  for_items(threads, count, [&](long item, int) {
    const long n = item / of.heads, head = item % of.heads;
    const Scratch panels(linear_packed_floats(of.columns, of.depth));
    pack_linear(of.columns, of.depth, b + n * of.b_batch_stride + head * of.b_head_stride, of.b_row_stride,
                !of.transposed, nullptr, panels.data());
    linear(layer, a + n * of.a_batch_stride + head * of.a_head_stride, panels.data(), nullptr,
           out + n * of.out_batch_stride + head * of.out_head_stride, count == 1 ? threads : 1);
  });
}

// score = score * scale + first + second, either of which may be null.
void add_masks(float* scores, long count, float scale, const float* first, const float* second) {
  for (long i = 0; i < count; i += kLanes) {
    const long lanes = std::min<long>(kLanes, count - i);
    Vector value = load_first(scores + i, lanes) * scale;
    if (first) value += load_first(first + i, lanes);
    if (second) value += load_first(second + i, lanes);
    store_first(scores + i, value, lanes);
  }
}

const float* row_of(const ArchcostMask& of, const float* data, long n, long head, long row) {
  return data ? data + n % of.period * of.batch_stride + head * of.head_stride + row * of.row_stride : nullptr;
}

void attend(const ArchcostAttention& of, float* const* places, long n, long head) {
  const auto start = [&](const ArchcostHeads& in) { return n * in.batch_stride + head * in.head_stride; };
  const long row = round_up(of.keys, kLanes) + kLanes;
  const long at_once = std::min<long>(of.queries, std::max<long>(kScores / row, kRows));
  const long key_floats = linear_packed_floats(of.keys, of.depth);
  const long value_floats = linear_packed_floats(of.values, of.keys);
  const Scratch scratch(key_floats + value_floats + at_once * (row + 1));
  float *const keys = scratch.data(), *const values = keys + key_floats, *const scores = values + value_floats;
  float* const sums = scores + at_once * row;
  pack_linear(of.keys, of.depth, places[1] + start(of.k), of.k.row_stride, false, nullptr, keys);
  pack_linear(of.values, of.keys, places[2] + start(of.v), of.v.row_stride, true, nullptr, values);
  for (long first = 0; first < of.queries; first += at_once) {
    const long rows = std::min<long>(at_once, of.queries - first);
    // Whole vectors: there is room behind the last key.
    const ArchcostLinear to_scores = {
        {kIdentity, 0, 0}, rows, of.depth, round_up(of.keys, kLanes), of.q.row_stride, row, 0};
    linear(to_scores, places[0] + start(of.q) + first * of.q.row_stride, keys, nullptr, scores, 1);
    for (long i = 0; i < rows; ++i) {
      float* const line = scores + i * row;
      add_masks(line, of.keys, of.scale, row_of(of.first_mask, places[3], n, head, first + i),
                row_of(of.second_mask, places[4], n, head, first + i));
      sums[i] = exponentials(line, of.keys, largest(line, of.keys), line);
    }
    const ArchcostLinear to_out = {{kIdentity, 0, 0}, rows, of.keys, of.values, row, of.out.row_stride, 0};
    float* const out = places[5] + start(of.out) + first * of.out.row_stride;
    linear(to_out, scores, values, nullptr, out, 1);
    for (long i = 0; i < rows; ++i) scale(out + i * of.out.row_stride, of.values, 1.0f / sums[i]);
  }
}

}  // namespace
}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_matmul(const void* arguments, float* const* places, int threads) {
  archcost::matmul(*static_cast<const ArchcostMatmul*>(arguments), places[0], places[1], places[2], threads);
}

ARCHCOST_EXPORT void archcost_step_attention(const void* arguments, float* const* places, int threads) {
  const auto& of = *static_cast<const ArchcostAttention*>(arguments);
  archcost::for_items(threads, of.batch * of.heads, [&](long item, int) {
    archcost::attend(of, places, item / of.heads, item % of.heads);
  });
}
