#include "normalise.h"

#include <algorithm>
#include <cmath>

#include "export.h"
#include "functions.h"
#include "items.h"
#include "rows.h"
#include "scratch.h"

namespace archcost {
namespace {

// The last block of channels, and how it is read and written.
struct Blocks {
  explicit Blocks(const ArchcostMap& of)
      : count(divide_up(of.channels, kLanes)), last(of.channels - (count - 1) * kLanes), blocked(of.pixel_stride == kLanes) {
    for (int i = 0; i < kLanes; ++i) used[i] = i < last ? -1 : 0;
  }
  ARCHCOST_INLINE long lanes(long block) const { return blocked || block + 1 < count ? kLanes : last; }
  // Zero in place of what no channel holds.
  ARCHCOST_INLINE Vector only_used(Vector value, long block) const {
    return block + 1 < count ? value : Vector(IntVector(value) & used);
  }
  const long count, last;
  const bool blocked;
  IntVector used;
};

// kLanes pixels of all channels.
class PixelNorm {
 public:
  PixelNorm(const ArchcostLayerNorm& of, const float* weight, const float* bias)
      : of_(of), in_(of.input), out_(of.output), weight_(weight), bias_(bias) {}

  template <bool kWhole>
  void run(const float* from, float* to, long pixels) const {
    const float count = float(of_.input.channels);
    alignas(64) float means[kLanes], scales[kLanes];
    Vector sums[kLanes] = {};
    add<kWhole>(from, pixels, sums, [](Vector value, long) { return value; });
    store(means, sums_of_lanes(sums) / count);
    std::fill(sums, sums + kLanes, Vector{});
    add<kWhole>(from, pixels, sums, [&](Vector value, long p) {
      const Vector off = value - means[p];
      return off * off;
    });
    const Vector variance = sums_of_lanes(sums) / count + of_.epsilon;
    for (int p = 0; p < kLanes; ++p) scales[p] = 1.0f / std::sqrt(variance[p]);
    with_function(of_.activation, [&](const auto& function) {
      for (long block = 0; block < in_.count; ++block) {
        const Vector weight = weight_ ? load(weight_ + block * kLanes) : broadcast(1.0f);
        const Vector bias = bias_ ? load(bias_ + block * kLanes) : Vector{};
        const long lanes_in = in_.lanes(block), lanes_out = out_.lanes(block);
        const float* const line = from + block * of_.input.block_stride;
        float* const result = to + block * of_.output.block_stride;
        for (long p = 0; p < (kWhole ? kLanes : pixels); ++p) {
          const Vector value = load_first(line + p * of_.input.pixel_stride, lanes_in);
          store_first(result + p * of_.output.pixel_stride, function((value - means[p]) * scales[p] * weight + bias), lanes_out);
        }
      }
    });
  }

 private:
  template <bool kWhole, class Term>
  ARCHCOST_INLINE void add(const float* from, long pixels, Vector (&sums)[kLanes], const Term& term) const {
    for (long block = 0; block < in_.count; ++block, from += of_.input.block_stride) {
      if (kWhole && (block + 1 < in_.count || in_.last == kLanes)) {
#pragma GCC unroll 16
        for (int p = 0; p < kLanes; ++p) sums[p] += term(load(from + p * of_.input.pixel_stride), p);
        continue;
      }
      for (long p = 0; p < pixels; ++p) {
        const Vector value = load_first(from + p * of_.input.pixel_stride, in_.lanes(block));
        sums[p] += in_.only_used(term(value, p), block);
      }
    }
  }

  const ArchcostLayerNorm& of_;
  const Blocks in_, out_;
  const float *const weight_, *const bias_;
};

void layer_norm(const ArchcostLayerNorm& of, const float* input, const float* weight, const float* bias, float* output,
                int threads) {
  const PixelNorm norm(of, weight, bias);
  const long pieces = divide_up(of.input.pixels, kLanes);
  for_items(of.input.batch * of.input.channels * of.input.pixels > kShare ? threads : 1, of.input.batch * pieces,
            [&](long item, int) {
              const long n = item / pieces, first = item % pieces * kLanes;
              const long pixels = std::min<long>(kLanes, of.input.pixels - first);
              const float* const from = input + n * of.input.batch_stride + first * of.input.pixel_stride;
              float* const to = output + n * of.output.batch_stride + first * of.output.pixel_stride;
              pixels == kLanes ? norm.run<true>(from, to, pixels) : norm.run<false>(from, to, pixels);
            });
}

// Each channel's mean and its sum of squares about it, then those of its group, then the channels once more.
void group_norm(const ArchcostGroupNorm& of, const float* input, const float* weight, const float* bias, float* output,
                int threads) {
  const Blocks in(of.input), out(of.output);
  const long row = in.count * kLanes, batch = of.input.batch, pixels = of.input.pixels;
  const Scratch scratch(batch * row * 2);
  float *const first = scratch.data(), *const second = first + batch * row;
  const auto start = [](const ArchcostMap& map, long item, long blocks) {
    return item / blocks * map.batch_stride + item % blocks * map.block_stride;
  };
  for_items(threads, batch * in.count, [&](long item, int) {
    const float* const from = input + start(of.input, item, in.count);
    const long lanes = in.lanes(item % in.count), step = of.input.pixel_stride;
    const Vector mean = sum_of(pixels, [&](long p) { return load_first(from + p * step, lanes); }) / float(pixels);
    const Vector squares = sum_of(pixels, [&](long p) {
      const Vector off = load_first(from + p * step, lanes) - mean;
      return off * off;
    });
    store(first + item * kLanes, mean), store(second + item * kLanes, squares);
  });
  // In their place: what each channel is multiplied by, and what is added.
  const long width = of.input.channels / of.groups;
  for (long n = 0; n < batch; ++n) {
    for (long begin = 0; begin < of.input.channels; begin += width) {
      float *const means = first + n * row + begin, *const squares = second + n * row + begin;
      double mean = 0, sum = 0;
      for (long c = 0; c < width; ++c) mean += means[c];
      mean /= double(width);
      for (long c = 0; c < width; ++c) sum += squares[c] + double(pixels) * (means[c] - mean) * (means[c] - mean);
      const double scale = 1 / std::sqrt(sum / double(width * pixels) + of.epsilon);
      for (long c = 0; c < width; ++c) {
        const double factor = weight ? weight[begin + c] * scale : scale;
        means[c] = float(factor);
        squares[c] = float((bias ? bias[begin + c] : 0.0f) - mean * factor);
      }
    }
  }
  for_items(threads, batch * in.count, [&](long item, int) {
    const float* const from = input + start(of.input, item, in.count);
    float* const to = output + start(of.output, item, in.count);
    const long lanes_in = in.lanes(item % in.count), lanes_out = out.lanes(item % in.count);
    const Vector scale = load(first + item * kLanes), shift = load(second + item * kLanes);
    with_function(of.activation, [&](const auto& function) {
      for (long p = 0; p < pixels; ++p) {
        const Vector value = load_first(from + p * of.input.pixel_stride, lanes_in);
        store_first(to + p * of.output.pixel_stride, function(value * scale + shift), lanes_out);
      }
    });
  });
}

void softmax(const ArchcostSoftmax& of, const float* input, float* output, int threads) {
  const long at_once = std::max(kShare / std::max<long>(of.length, 1), 1L);
  for_items(threads, divide_up(of.rows, at_once), [&](long item, int) {
    for (long row = item * at_once; row < std::min((item + 1) * at_once, long(of.rows)); ++row) {
      const float* const from = input + row * of.in_stride;
      float* const to = output + row * of.out_stride;
      const float most = largest(from, of.length);
      const float sum = exponentials(from, of.length, most, to);
      scale(to, of.length, 1.0f / sum);
    }
  });
}

}  // namespace
}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_layer_norm(const void* arguments, float* const* places, int threads) {
  archcost::layer_norm(*static_cast<const ArchcostLayerNorm*>(arguments), places[0], places[1], places[2], places[3],
                       threads);
}

ARCHCOST_EXPORT void archcost_step_group_norm(const void* arguments, float* const* places, int threads) {
  archcost::group_norm(*static_cast<const ArchcostGroupNorm*>(arguments), places[0], places[1], places[2], places[3],
                       threads);
}

ARCHCOST_EXPORT void archcost_step_softmax(const void* arguments, float* const* places, int threads) {
  archcost::softmax(*static_cast<const ArchcostSoftmax*>(arguments), places[0], places[1], threads);
}
