// What runs of neighbouring outputs of a row look at under their windows, in channels_last or in blocked layout.
#pragma once

#include <algorithm>
#include <type_traits>

#include "finish.h"
#include "items.h"
#include "vector.h"
#include "window.h"

namespace archcost {

// How a vector of channels of a pixel is reached. In blocked layout pixels are a vector apart.
struct Blocked {
  explicit Blocked(const ArchcostImages&) {}
  static constexpr long column_stride = kLanes;
  static Vector load(const float* from) { return archcost::load(from); }
  static void store(float* to, Vector value) { archcost::store(to, value); }
};

struct ChannelsLast {
  explicit ChannelsLast(const ArchcostImages& of) : column_stride(of.column_stride) {}
  const long column_stride;
  static Vector load(const float* from) { return archcost::load(from); }
  static void store(float* to, Vector value) { archcost::store(to, value); }
};

// channels_last with fewer channels than a vector.
struct Narrow {
  explicit Narrow(const ArchcostImages& of) : column_stride(of.column_stride), channels(of.channels) {}
  const long column_stride, channels;
  Vector load(const float* from) const { return load_first(from, channels); }
  void store(float* to, Vector value) const { store_first(to, value, channels); }
};

// Neighbouring outputs of a row, in one block of channels.
struct Tile {
  long block, first_channel;
  const float* from;  // of the first row that is in the image, the first column, which may be outside
  float* to;
  long skipped, rows;  // of the window: above the image, in the image
  long left, count;    // the first column; outputs
  bool inside;         // all columns are in the image, and there are as many outputs as there can be
};

// Output pixels of a row that are computed together: each pixel that is loaded serves all that see it.
constexpr int kColumns = 7;

class UnderWindow {
 public:
  UnderWindow(const Window& window, const ArchcostConvolution& of, const float* input, float* output)
      : window(window),
        of(of),
        blocked(is_blocked(of.output)),
        blocks_(divide_up(of.output.channels, kLanes)),
        // In blocked layout each block is an image of its own; in channels_last a pixel's blocks lie together.
        slices_(blocked ? blocks_ : 1),
        input_(input),
        output_(output) {}

  // Calls work(image, slice, row) for every row of the output.
  template <class Work>
  void each_row(const Work& work) const {
    const int threads = int(std::max<long>(1, of.threads));
    // Neighbouring rows look at the same pixels: they stay with one thread.
    const long images = of.output.batch * slices_, wanted = divide_up(kBandsPerThread * threads, images);
    const long height = of.output.height, rows = threads == 1 ? height : divide_up(height, wanted);
    const long bands = divide_up(height, rows);
    const auto band = [&](long item, int) {
      const long image = item / bands / slices_, slice = item / bands % slices_, first = item % bands * rows;
      for (long row = first; row < std::min(first + rows, height); ++row) work(image, slice, row);
    };
    for_items(threads, images * bands, band);
  }

  // Calls work(layout of the input, of the output, tile) for all outputs of a row.
  template <class Work>
  void each_tile(long image, long slice, long row, const Work& work) const {
    if (blocked) {
      each_tile_in<Blocked>(image, slice, row, work);
    } else if (of.output.channels < kLanes) {
      each_tile_in<Narrow>(image, slice, row, work);
    } else {
      each_tile_in<ChannelsLast>(image, slice, row, work);
    }
  }

  // The same for images of one layout.
  template <class Layout, class Work>
  ARCHCOST_INLINE void each_tile_in(long image, long slice, long row, const Work& work) const {
    const ArchcostImages &in = of.input, &out = of.output;
    const Layout layout_in(in), layout_out(out);
    const long under = window.columns_under(kColumns), step = window.row_dilation;
    const long top = row * window.row_step - of.pad_top;
    const long skipped = top < 0 ? std::min(window.height, divide_up(-top, step)) : 0;
    const long end = std::clamp(divide_up(std::max<long>(0, in.height - top), step), skipped, window.height);
    const float* const line = input_ + image * in.batch_stride + (top + skipped * step) * in.row_stride;
    float* const to = output_ + image * out.batch_stride + row * out.row_stride;
    const long blocks = blocked ? 1 : blocks_;
    for (long column = 0; column < out.width; column += kColumns) {
      const long left = column * window.column_step - of.pad_left;
      const long count = std::min<long>(kColumns, out.width - column);
      const bool inside = left >= 0 && left + under <= in.width && count == kColumns;
      for (long b = 0; b < blocks; ++b) {
        const Place place = place_of(slice + b);
        const Tile tile = {place.block, place.channel, line + place.in + left * in.column_stride,
                           to + place.out + column * out.column_stride, skipped, end - skipped, left, count,
                           inside};
        work(layout_in, layout_out, tile);
      }
    }
  }

  // Calls use(column, pixels from the first one) for the outputs of a tile whose j-th tap of a row is in the image.
  template <class Use>
  ARCHCOST_INLINE void each_output(const Tile& tile, long j, const Use& use) const {
#pragma GCC unroll 7
    for (int column = 0; column < kColumns; ++column) {
      const long x = j * window.column_dilation + column * window.column_step;
      if (tile.left + x >= 0 && tile.left + x < of.input.width && column < tile.count) use(column, x);
    }
  }

  // Of a slice, from slice * kLanes on.
  long channels() const { return blocked ? kLanes : of.output.channels; }

  const Window window;
  const ArchcostConvolution of;
  const bool blocked;

 private:
  static constexpr int kBandsPerThread = 4;

  // Where a block's channels begin.
  struct Place {
    long block, channel, in, out;
  };

  // The last block in channels_last overlaps the one before it, so as to be whole, and counts as another.
  Place place_of(long block) const {
    const long channel = block * kLanes, last = of.output.channels - kLanes;
    if (blocked) return {block, channel, block * of.input.block_stride, block * of.output.block_stride};
    return last < 0 || channel <= last ? Place{block, channel, channel, channel} : Place{block + 1, last, last, last};
  }

  const long blocks_, slices_;
  const float* const input_;
  float* const output_;
};

// Calls work(width, step), both known while compiling, for windows of one of these widths whose columns lie
// together and of which neighbours are one or two columns apart; work(0, 0) for others.
template <int... kWidth, class Work>
void with_width_and_step(const Window& of, const Work& work) {
  const auto try_width = [&](auto width) {
    if (of.column_dilation != 1 || of.width != width || of.column_step > 2) return false;
    of.column_step == 1 ? work(width, std::integral_constant<int, 1>()) : work(width, std::integral_constant<int, 2>());
    return true;
  };
  if (!(try_width(std::integral_constant<int, kWidth>()) || ...)) {
    work(std::integral_constant<int, 0>(), std::integral_constant<int, 0>());
  }
}

// Bit by bit, whether the first kUnder pixels under a tile are in the image.
template <int kUnder>
ARCHCOST_INLINE unsigned inside_of(const Tile& tile, long width) {
  const long end = std::clamp<long>(width - tile.left, 0, kUnder);
  return ((1u << end) - 1) & (tile.left < 0 ? ~0u << std::min(-tile.left, 31L) : ~0u);
}

// Writes the outputs of a tile.
template <bool kWhole, class Layout>
ARCHCOST_INLINE void finish_tile(const Layout& out, const Tile& tile, const Vector (&sums)[kColumns],
                                 const ArchcostConvolution& of) {
  const Finish finish(Vector{}, of);
#pragma GCC unroll 7
  for (int column = 0; column < kColumns; ++column) {
    if (!kWhole && column >= tile.count) break;
    out.store(tile.to + column * out.column_stride, finish(sums[column]));
  }
}

}  // namespace archcost
