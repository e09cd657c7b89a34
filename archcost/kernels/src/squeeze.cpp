#include "squeeze.h"

#include <algorithm>

#include "export.h"
#include "items.h"
#include "rows.h"
#include "scratch.h"

namespace archcost {
namespace {

// means[n][c], `stride` floats from an image to the next, whole vectors, zero behind the last channel.
template <class Put>
void for_sums(const ArchcostMap& of, const float* input, int threads, const Put& put) {
  const long blocks = divide_up(of.channels, kLanes);
  const bool worth = of.batch * of.channels * of.pixels > kShare;
  for_items(worth ? threads : 1, of.batch * blocks, [&](long item, int) {
    const long n = item / blocks, block = item % blocks;
    const long channels = std::min<long>(kLanes, of.channels - block * kLanes);
    const float* const from = input + n * of.batch_stride + block * of.block_stride;
    const Vector sum = channels == kLanes || of.pixel_stride == kLanes
                           ? sum_of(of.pixels, [&](long p) { return load(from + p * of.pixel_stride); })
                           : sum_of(of.pixels, [&](long p) { return load_first(from + p * of.pixel_stride, channels); });
    put(n, block, channels, sum);
  });
}

void global_pool(const ArchcostGlobalPool& of, const float* input, float* out, int threads) {
  for_sums(of.input, input, threads, [&](long n, long block, long channels, Vector sum) {
    float* const to = out + n * of.out_batch_stride + block * kLanes;
    store_first(to, sum * of.scale, channels);
    activate(of.activation, to, channels);
  });
}

// Where the packed weights begin: W1 [hidden][channels], W2 transposed [hidden][channels], b2 [channels], each row a whole
// number of vectors, and b1 [hidden].
struct Packed {
  Packed(long channels, long hidden)
      : row(round_up(channels, kLanes)),
        second(hidden * row),
        second_bias(2 * hidden * row),
        first_bias(second_bias + row),
        floats(first_bias + round_up(hidden, kLanes)) {}
  const long row, second, second_bias, first_bias, floats;
};

// hidden[j] for the rows from j on.
template <int kCount>
void dot(const float* rows, long row, const float* means, const float* bias, float* hidden) {
  Vector sums[kCount] = {};
  for (long c = 0; c < row; c += kLanes) {
    const Vector mean = load(means + c);
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) sums[j] += mean * load(rows + j * row + c);
  }
  for (int j = 0; j < kCount; ++j) hidden[j] = sum_of_lanes(sums[j]) + bias[j];
}

// Vectors of the gate from c on.
template <int kCount>
void combine(const float* columns, long row, long hidden_count, const float* hidden, const float* bias, float* gate) {
  Vector sums[kCount];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) sums[i] = load(bias + i * kLanes);
  for (long j = 0; j < hidden_count; ++j, columns += row) {
    const Vector factor = broadcast(hidden[j]);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) sums[i] += factor * load(columns + i * kLanes);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) store(gate + i * kLanes, sums[i]);
}

void squeeze(const ArchcostSqueeze& of, const float* input, const float* packed, float* gate, int threads) {
  const Packed at(of.input.channels, of.hidden);
  const long row = at.row, hidden_row = round_up(of.hidden, kLanes);
  const Scratch scratch(of.input.batch * (row + hidden_row));
  float* const means = scratch.data();
  for_sums(of.input, input, threads, [&](long n, long block, long channels, Vector sum) {
    store(means + n * row + block * kLanes, Vector{});
    store_first(means + n * row + block * kLanes, sum * of.scale, channels);
  });
  for_items(threads, of.input.batch, [&](long n, int) {
    const float* const mean = means + n * row;
    float* const hidden = means + of.input.batch * row + n * hidden_row;
    float* const to = gate + n * of.out_batch_stride;
    store(hidden + hidden_row - kLanes, Vector{});
    const float* const bias = packed + at.first_bias;
    long j = 0;
    for (; j + 8 <= of.hidden; j += 8) dot<8>(packed + j * row, row, mean, bias + j, hidden + j);
    for (; j < of.hidden; ++j) dot<1>(packed + j * row, row, mean, bias + j, hidden + j);
    activate(of.first, hidden, hidden_row);
    const float *const columns = packed + at.second, *const start = packed + at.second_bias;
    long c = 0;
    for (; c + 8 * kLanes <= row; c += 8 * kLanes) combine<8>(columns + c, row, of.hidden, hidden, start + c, to + c);
    for (; c < row; c += kLanes) combine<1>(columns + c, row, of.hidden, hidden, start + c, to + c);
    activate(of.second, to, row);
  });
}

}  // namespace
}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_global_pool(const void* arguments, float* const* places, int threads) {
  archcost::global_pool(*static_cast<const ArchcostGlobalPool*>(arguments), places[0], places[1], threads);
}

ARCHCOST_EXPORT void archcost_step_squeeze(const void* arguments, float* const* places, int threads) {
  archcost::squeeze(*static_cast<const ArchcostSqueeze*>(arguments), places[0], places[1], places[2], threads);
}

ARCHCOST_EXPORT std::int64_t archcost_squeeze_packed_floats(std::int64_t channels, std::int64_t hidden) {
  return archcost::Packed(channels, hidden).floats;
}

// W1 [hidden][channels], W2 [channels][hidden]; either bias may be null.
ARCHCOST_EXPORT void archcost_squeeze_pack(std::int64_t channels, std::int64_t hidden, const float* first,
                                           const float* first_bias, const float* second, const float* second_bias,
                                           float* packed) {
  const archcost::Packed at(channels, hidden);
  std::fill_n(packed, at.floats, 0.0f);
  for (long j = 0; j < hidden; ++j) {
    for (long c = 0; c < channels; ++c) {
      packed[j * at.row + c] = first[j * channels + c];
      packed[at.second + j * at.row + c] = second[c * hidden + j];
    }
    if (first_bias) packed[at.first_bias + j] = first_bias[j];
  }
  if (second_bias) std::copy_n(second_bias, channels, packed + at.second_bias);
}
