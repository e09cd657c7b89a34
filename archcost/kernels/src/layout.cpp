#include "layout.h"

#include <algorithm>

#include "export.h"
#include "items.h"
#include "pixels.h"

namespace archcost {
namespace {

long block_stride(const ArchcostImages& of) {
  return of.block_stride ? of.block_stride : kLanes * of.channel_stride;
}

// kLanes channels of one image. Those of a blocked output are all there: what is behind the last one gets zeros.
ArchcostImages block_of(ArchcostImages of, long block, bool writes) {
  const long channels = std::min<long>(kLanes, of.channels - block * kLanes);
  of.batch = 1, of.channels = writes && is_blocked(of) ? kLanes : channels;
  of.block_stride = 0;  // this one stands for itself
  return of;
}

bool vectors(const ArchcostImages& of) { return of.channel_stride == 1 || of.column_stride == 1; }

void convert_one_by_one(const ArchcostConversion& of, const float* input, float* output, int threads) {
  const ArchcostImages &from = of.input, &to = of.output;
  const long channels = is_blocked(to) ? round_up(to.channels, kLanes) : to.channels;
  for_items(threads, from.batch * channels, [&](long item, int) {
    const long n = item / channels, c = item % channels;
    const auto start = [&](const ArchcostImages& in) {
      return n * in.batch_stride + c / kLanes * block_stride(in) + c % kLanes * in.channel_stride;
    };
    for (long i = 0; i < to.height; ++i) {
      for (long j = 0; j < to.width; ++j) {
        output[start(to) + i * to.row_stride + j * to.column_stride] =
            c < from.channels ? input[start(from) + i * from.row_stride + j * from.column_stride] : 0.0f;
      }
    }
  });
}

// Pixels are handled a few at a time, so that those of channels_last stay near over all blocks.
void convert(ArchcostConversion of, const float* input, float* output, int threads) {
  if (!vectors(of.input) || !vectors(of.output)) return convert_one_by_one(of, input, output, threads);
  if (rows_end_to_end(of.input) && rows_end_to_end(of.output)) {
    for (ArchcostImages* side : {&of.input, &of.output}) {
      side->width *= side->height, side->height = 1, side->row_stride = side->width * side->column_stride;
    }
  }
  const auto far_apart = [](const ArchcostImages& side) { return side.channel_stride == 1 && !is_blocked(side); };
  constexpr long kMost = 256;
  const long at_once = far_apart(of.input) || far_apart(of.output) ? 32 : kMost;
  const long pieces = divide_up(of.input.width, at_once), blocks = divide_up(of.input.channels, kLanes);
  for_items(threads, of.input.batch * of.input.height * pieces, [&](long item, int) {
    const long left = item % pieces * at_once, row = item / pieces % of.input.height;
    const long n = item / pieces / of.input.height, width = std::min<long>(at_once, of.input.width - left);
    for (long block = 0; block < blocks; ++block) {
      const Pixels from(block_of(of.input, block, false),
                        input + n * of.input.batch_stride + block * block_stride(of.input), 0, 0);
      float* const base = output + n * of.output.batch_stride + block * block_stride(of.output);
      const Pixels to(block_of(of.output, block, true), base, 0, 0);
      if (is_blocked(of.output)) {
        from.gather(row, left, 1, width, to.at(row, left), 0);
      } else if (is_blocked(of.input)) {
        to.scatter(row, left, 1, width, from.at(row, left), 0);
      } else {
        alignas(64) float near[kMost * kLanes];
        from.gather(row, left, 1, width, near, width * kLanes);
        to.scatter(row, left, 1, width, near, width * kLanes);
      }
    }
  });
}

// How a vector of the output comes from vectors of the sources: from the first two, then more of them one by one.
struct Mixture {
  long count = 0;
  const float* from[kLanes];
  IntVector lanes[kLanes];  // below kLanes: of what there is so far; else of this source
};

ARCHCOST_INLINE Vector mix(Vector a, Vector b, IntVector lanes) {
#if defined(__clang__)
  alignas(64) float both[2 * kLanes], mixed[kLanes];
  store(both, a), store(both + kLanes, b);
  for (int i = 0; i < kLanes; ++i) mixed[i] = both[lanes[i]];
  return load(mixed);
#else
  return __builtin_shuffle(a, b, lanes);
#endif
}

Mixture mixture_of(const ArchcostGather& of, const std::int64_t* table, float* const* sources, long image,
                   long block) {
  Mixture found;
  IntVector own;
  for (int i = 0; i < kLanes; ++i) own[i] = i;
  for (long i = 0; i < std::min<long>(kLanes, of.channels - block * kLanes); ++i) {
    const std::int64_t entry = table[block * kLanes + i];
    const long source = entry >> 32, channel = entry & 0xffffffff;
    const float* const from = sources[source] + image * of.source_batch_stride[source] +
                              channel / kLanes * of.source_block_stride[source];
    const long k = std::find(found.from, found.from + found.count, from) - found.from;
    if (k == found.count) {
      found.from[k] = from, found.lanes[k] = own;
      ++found.count;
    }
    found.lanes[k][i] = kLanes + channel % kLanes;
  }
  return found;
}

template <int kCount>
void mix_pixels(const Mixture& of, long pixels, float* to) {
  for (long p = 0; p < pixels * kLanes; p += kLanes) {
    Vector mixed = load(of.from[0] + p);
    mixed = mix(mixed, mixed, of.lanes[0]);
    for (long k = 1; k < (kCount ? kCount : of.count); ++k) mixed = mix(mixed, load(of.from[k] + p), of.lanes[k]);
    store(to + p, mixed);
  }
}

// The lanes of the first two sources in one go.
void mix_two(const Mixture& of, long pixels, float* to) {
  IntVector lanes = of.lanes[1];
  for (int i = 0; i < kLanes; ++i) {
    if (lanes[i] < kLanes) lanes[i] = of.lanes[0][i] % kLanes;
  }
  for (long p = 0; p < pixels * kLanes; p += kLanes) {
    store(to + p, mix(load(of.from[0] + p), load(of.from[1] + p), lanes));
  }
}

void gather(const ArchcostGather& of, float* const* places, int threads) {
  const std::int64_t* const table = reinterpret_cast<const std::int64_t*>(&of + 1);
  const long blocks = divide_up(of.channels, kLanes);
  for_items(threads, of.batch * blocks, [&](long item, int) {
    const long image = item / blocks, block = item % blocks;
    const Mixture mixture = mixture_of(of, table, places, image, block);
    float* const to = places[of.sources] + image * of.batch_stride + block * of.block_stride;
    if (mixture.count == 1) return mix_pixels<1>(mixture, of.pixels, to);
    if (mixture.count == 2) return mix_two(mixture, of.pixels, to);
    mix_pixels<0>(mixture, of.pixels, to);
  });
}

}  // namespace
}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_convert(const void* arguments, float* const* places, int threads) {
  archcost::convert(*static_cast<const ArchcostConversion*>(arguments), places[0], places[1], threads);
}

ARCHCOST_EXPORT void archcost_step_gather(const void* arguments, float* const* places, int threads) {
  archcost::gather(*static_cast<const ArchcostGather*>(arguments), places, threads);
}
