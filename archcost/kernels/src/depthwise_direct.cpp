#include "depthwise_direct.h"

#include <algorithm>

#include "epilogue.h"
#include "export.h"
#include "finish.h"
#include "threads.h"

namespace archcost {
namespace {

// Output pixels of a row that are computed together: each pixel that is loaded serves all that see it.
constexpr int kColumns = 7;
constexpr int kBandsPerThread = 4;

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

// Neighbouring outputs of a row in one block of channels, and what they look at.
struct Tile {
  const float* from;     // of the first row that is in the image, the first column, which may be outside
  const float* weights;  // of that row
  float* to;
  long rows;             // in the image
  long left, count;      // the first column; outputs
  Vector bias;
};

class Depthwise {
 public:
  Depthwise(const Window& window, const ArchcostConvolution& of, const float* input, const float* packed,
            const float* bias, const Epilogue& epilogue, float* output)
      : window_(window),
        of_(epilogue.before()),
        input_(input),
        packed_(packed),
        bias_(bias),
        output_(output),
        epilogue_(epilogue),
        blocked_(is_blocked(of.output)),
        blocks_(divide_up(of.output.channels, kLanes)),
        // In blocked layout each block is an image of its own; in channels_last a pixel's blocks lie together.
        slices_(blocked_ ? blocks_ : 1) {}

  void run() const {
    const ArchcostImages& out = of_.output;
    const int threads = int(std::max<long>(1, of_.threads));
    // Neighbouring rows look at the same pixels: they stay with one thread.
    const long images = out.batch * slices_, wanted = divide_up(kBandsPerThread * threads, images);
    const long rows = threads == 1 ? out.height : divide_up(out.height, wanted);
    const long bands = divide_up(out.height, rows);
    const auto band = [&](long item, int) {
      const long slice = item / bands % slices_, first = item % bands * rows;
      for (long row = first; row < std::min<long>(first + rows, out.height); ++row) {
        run_row(item / bands / slices_, slice, row);
      }
    };
    if (threads > 1) return parallel_for(threads, images * bands, band);
    for (long item = 0; item < images * bands; ++item) band(item, 0);
  }

 private:
  void run_row(long image, long slice, long row) const {
    if (blocked_) {
      row_of<Blocked>(image, slice, row);
    } else if (of_.output.channels < kLanes) {
      tiles<Narrow, 0, 0>(image, slice, row);
    } else {
      row_of<ChannelsLast>(image, slice, row);
    }
    if (!epilogue_) return;
    const long channels = blocked_ ? kLanes : of_.output.channels;
    epilogue_(image, slice * kLanes, channels, row, 0, 1, of_.output.width);
  }

  template <class Layout>
  void row_of(long image, long slice, long row) const {
    const long step = window_.column_dilation == 1 && window_.column_step < 3 ? window_.column_step : 0;
    switch (step ? 2 * window_.width + step : 0) {
      case 2 * 3 + 1: return tiles<Layout, 3, 1>(image, slice, row);
      case 2 * 3 + 2: return tiles<Layout, 3, 2>(image, slice, row);
      case 2 * 5 + 1: return tiles<Layout, 5, 1>(image, slice, row);
      case 2 * 5 + 2: return tiles<Layout, 5, 2>(image, slice, row);
      case 2 * 7 + 1: return tiles<Layout, 7, 1>(image, slice, row);
      case 2 * 7 + 2: return tiles<Layout, 7, 2>(image, slice, row);
      default: return tiles<Layout, 0, 0>(image, slice, row);
    }
  }

  // kWidth 0: any window.
  template <class Layout, int kWidth, int kStep>
  void tiles(long image, long slice, long row) const {
    const ArchcostImages &in = of_.input, &out = of_.output;
    const Layout layout_in(in), layout_out(out);
    const long under = window_.columns_under(kColumns), step = window_.row_dilation;
    const long top = row * window_.row_step - of_.pad_top;
    const long skipped = top < 0 ? std::min(window_.height, divide_up(-top, step)) : 0;
    const long rows = std::clamp<long>(divide_up(std::max<long>(0, in.height - top), step), skipped, window_.height) - skipped;
    const float* const line = input_ + image * in.batch_stride + (top + skipped * step) * in.row_stride;
    float* const to = output_ + image * out.batch_stride + row * out.row_stride;
    const long blocks = slices_ == 1 && !blocked_ ? blocks_ : 1;
    for (long column = 0; column < out.width; column += kColumns) {
      const long left = column * window_.column_step - of_.pad_left;
      const long count = std::min<long>(kColumns, out.width - column);
      const bool inside = left >= 0 && left + under <= in.width && count == kColumns;
      for (long b = 0; b < blocks; ++b) {
        const Place place = place_of(slice + b);
        const Tile tile = {line + place.in + left * in.column_stride,
                           packed_ + (place.weights * window_.height + skipped) * window_.width * kLanes,
                           to + place.out + column * out.column_stride,
                           rows,
                           left,
                           count,
                           bias_ ? load_first(bias_ + place.channel, out.channels - place.channel) : Vector{}};
        if constexpr (kWidth == 0) {
          any_window(layout_in, layout_out, tile);
        } else if (inside) {
          window<kWidth, kStep, true>(layout_in, layout_out, tile);
        } else {
          window<kWidth, kStep, false>(layout_in, layout_out, tile);
        }
      }
    }
  }

  // Where a block's channels begin.
  struct Place {
    long channel, in, out, weights;
  };

  // The last block in channels_last overlaps the one before it, so as to be whole, and has weights of its own.
  Place place_of(long block) const {
    if (blocked_) return {block * kLanes, block * of_.input.block_stride, block * of_.output.block_stride, block};
    const long last = of_.output.channels - kLanes, channel = block * kLanes;
    if (last < 0 || channel <= last) return {channel, channel, channel, block};
    return {last, last, last, block + 1};
  }

  template <int kWidth, int kStep, bool kInside, class Layout>
  ARCHCOST_INLINE void window(const Layout& in, const Layout& out, const Tile& tile) const {
    constexpr int kUnder = (kColumns - 1) * kStep + kWidth;
    // Bit by bit, whether a pixel is in the image.
    const long end = std::clamp<long>(of_.input.width - tile.left, 0L, long(kUnder));
    const unsigned inside = ((1u << end) - 1) & (tile.left < 0 ? ~0u << std::min(-tile.left, 31L) : ~0u);
    const long row_stride = window_.row_dilation * of_.input.row_stride;
    const float *line = tile.from, *weights = tile.weights;
    Vector sums[kColumns];
#pragma GCC unroll 7
    for (int column = 0; column < kColumns; ++column) sums[column] = tile.bias;
    for (long i = 0; i < tile.rows; ++i, line += row_stride, weights += kWidth * kLanes) {
      Vector taps[kWidth];
#pragma GCC unroll 7
      for (int j = 0; j < kWidth; ++j) taps[j] = load(weights + j * kLanes);
#pragma GCC unroll 19
      for (int pixel = 0; pixel < kUnder; ++pixel) {
        if (!kInside && !(inside >> pixel & 1)) continue;
        const Vector value = in.load(line + pixel * in.column_stride);
#pragma GCC unroll 7
        for (int column = 0; column < kColumns; ++column) {
          const int tap = pixel - column * kStep;
          if (tap >= 0 && tap < kWidth) sums[column] += value * taps[tap];
        }
      }
    }
    finish<kInside>(out, tile, sums);
  }

  template <class Layout>
  void any_window(const Layout& in, const Layout& out, const Tile& tile) const {
    Vector sums[kColumns];
#pragma GCC unroll 7
    for (int column = 0; column < kColumns; ++column) sums[column] = tile.bias;
    const long step = window_.column_step;
    for (long i = 0; i < tile.rows; ++i) {
      const float* const line = tile.from + i * window_.row_dilation * of_.input.row_stride;
      for (long j = 0; j < window_.width; ++j) {
        const long first = j * window_.column_dilation;
        const Vector tap = load(tile.weights + (i * window_.width + j) * kLanes);
#pragma GCC unroll 7
        for (int column = 0; column < kColumns; ++column) {
          const long x = first + column * step;
          if (tile.left + x < 0 || tile.left + x >= of_.input.width || column >= tile.count) continue;
          sums[column] += in.load(line + x * in.column_stride) * tap;
        }
      }
    }
    finish<false>(out, tile, sums);
  }

  template <bool kWhole, class Layout>
  ARCHCOST_INLINE void finish(const Layout& out, const Tile& tile, const Vector (&sums)[kColumns]) const {
    const Finish finish(Vector{}, of_);
#pragma GCC unroll 7
    for (int column = 0; column < kColumns; ++column) {
      if (!kWhole && column >= tile.count) break;
      out.store(tile.to + column * out.column_stride, finish(sums[column]));
    }
  }

  const Window& window_;
  const ArchcostConvolution of_;
  const float* const input_;
  const float* const packed_;
  const float* const bias_;
  float* const output_;
  const Epilogue& epilogue_;
  const bool blocked_;
  const long blocks_, slices_;
};

}  // namespace

// One block more than there are: the last whole one in channels_last, see place_of.
long depthwise_direct_packed_floats(const Window& window, long channels) {
  return (divide_up(channels, kLanes) + 1) * window.taps() * kLanes;
}

// [block][tap][channel]
void pack_depthwise_direct(const Window& window, long channels, const float* weights, float* packed) {
  const long blocks = divide_up(channels, kLanes);
  for (long block = 0; block <= blocks; ++block) {
    const long first = block < blocks ? block * kLanes : std::max(0L, channels - kLanes);
    for (long tap = 0; tap < window.taps(); ++tap) {
      for (long c = first; c < first + kLanes; ++c) {
        *packed++ = c < channels ? weights[c * window.taps() + tap] : 0.0f;
      }
    }
  }
}

void convolve_depthwise_direct(const Window& window, const ArchcostConvolution& convolution, const float* input,
                               const float* packed, const float* bias, const float* addend, float* output,
                               const ArchcostActivation& activation) {
  const Epilogue epilogue(convolution, addend, output, activation);
  Depthwise(window, convolution, input, packed, bias, epilogue, output).run();
}

}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_depthwise(const void* arguments, float* const* places, int threads) {
  const auto& of = *static_cast<const ArchcostDepthwise*>(arguments);
  const ArchcostConvolution convolution =
      archcost::with_limits({of.input, of.output, of.pad_top, of.pad_left, threads, 0, 0, 0}, of.activation);
  archcost::convolve_depthwise_direct(archcost::window_of(of.window), convolution, places[0], places[1], places[2],
                                      places[3], places[4], of.activation);
}
