#include "grouped.h"

#include <utility>

#include "epilogue.h"
#include "export.h"
#include "under_window.h"

// An output channel sees the k-th input channel of its own group, for every k. Those of a block of outputs are put
// side by side in a vector, which then serves all taps that see the pixel.

namespace archcost {
namespace {

template <int G, int k, int... lane>
ARCHCOST_INLINE Vector permuted(Vector value, std::integer_sequence<int, lane...>) {
  return ARCHCOST_SHUFFLE(value, value, (lane / G * G + k)...);
}

// Groups as wide in as out, of which a block holds several whole ones: the input's block has all that is needed.
template <int G>
class Whole {
 public:
  Whole(const ArchcostImages& in, long, long, long block) : first_(block * in.block_stride) {}

  template <int k>
  struct Channel {
    const long first;
    ARCHCOST_INLINE Vector operator()(const float* pixel) const {
      return permuted<G, k>(load(pixel + first), std::make_integer_sequence<int, kLanes>{});
    }
  };

  // Calls work(k, function of the address of a pixel).
  template <class Work>
  ARCHCOST_INLINE void each_channel(const Work& work) const {
    each(work, std::make_integer_sequence<int, G>{});
  }

 private:
  template <class Work, int... k>
  ARCHCOST_INLINE void each(const Work& work, std::integer_sequence<int, k...>) const {
    (work(k, Channel<k>{first_}), ...);
  }

  const long first_;
};

// A block of outputs in so many groups; 0: any number of them.
template <int kCount>
class Several {
 public:
  Several(const ArchcostImages& in, long of_group_in, long of_group_out, long block)
      : in_(in), of_group_in_(of_group_in), first_(block * kLanes / of_group_out) {
    for (int lane = 0; lane < kLanes; ++lane) group_[lane] = int((block * kLanes + lane) / of_group_out - first_);
    // Lanes behind the last channel take any group.
    const long groups = in.channels / of_group_in;
    count_ = kCount ? kCount : std::min<long>(group_[kLanes - 1] + 1, groups - first_);
  }

  struct Channel {
    const long* offsets;
    const Several& of;
    ARCHCOST_INLINE Vector operator()(const float* pixel) const {
      Vector value = broadcast(pixel[offsets[0]]);
      for (int i = 1; i < (kCount ? kCount : of.count_); ++i) {
        value = of.group_ >= i ? broadcast(pixel[offsets[i]]) : value;
      }
      return value;
    }
  };

  template <class Work>
  ARCHCOST_INLINE void each_channel(const Work& work) const {
    for (long k = 0; k < of_group_in_; ++k) {
      long offsets[kCount ? kCount : kLanes];
      for (int i = 0; i < (kCount ? kCount : count_); ++i) {
        const long channel = (first_ + i) * of_group_in_ + k;
        offsets[i] = channel / kLanes * in_.block_stride + channel % kLanes;
      }
      work(k, Channel{offsets, *this});
    }
  }

 private:
  const ArchcostImages& in_;
  const long of_group_in_, first_;
  IntVector group_;
  long count_;
};

class Grouped {
 public:
  Grouped(const UnderWindow& under, long groups, const float* packed, const float* bias)
      : under_(under),
        window_(under.window),
        of_(under.of),
        of_group_in_(of_.input.channels / groups),
        of_group_out_(of_.output.channels / groups),
        packed_(packed),
        bias_(bias) {}

  template <int kWidth, int kStep>
  void row(long image, long block, long row) const {
    const bool whole = of_group_in_ == of_group_out_;
    const long last = std::min<long>(of_.output.channels, (block + 1) * kLanes) - 1;
    const long groups = last / of_group_out_ - block * kLanes / of_group_out_ + 1;
    if (groups == 1) return row_by<Several<1>, kWidth, kStep>(image, block, row);
    if (kLanes > 8 && whole && of_group_in_ == 8) return row_by<Whole<8>, kWidth, kStep>(image, block, row);
    if (kLanes > 4 && whole && of_group_in_ == 4) return row_by<Whole<4>, kWidth, kStep>(image, block, row);
    if (whole && of_group_in_ == 2) return row_by<Whole<2>, kWidth, kStep>(image, block, row);
    if (groups == 2) return row_by<Several<2>, kWidth, kStep>(image, block, row);
    row_by<Several<0>, 0, 0>(image, block, row);
  }

 private:
  template <class Source, int kWidth, int kStep>
  void row_by(long image, long block, long row) const {
    const Source source(of_.input, of_group_in_, of_group_out_, block);
    const Vector bias = bias_of(bias_, block * kLanes, of_.output.channels);
    under_.each_tile_in<Blocked>(
        image, block, row, [&](const Blocked&, const Blocked& out, Tile tile) ARCHCOST_FLAT {
          tile.from -= block * of_.input.block_stride;
          if constexpr (kWidth == 0) {
            any_window(source, bias, out, tile);
          } else if (tile.inside) {
            window<kWidth, kStep, true>(source, bias, out, tile);
          } else {
            window<kWidth, kStep, false>(source, bias, out, tile);
          }
        });
  }

  const float* weights(const Tile& tile) const {
    return packed_ + (tile.block * window_.height + tile.skipped) * row_of_weights();
  }
  long row_of_weights() const { return of_group_in_ * window_.width * kLanes; }

  template <int kWidth, int kStep, bool kInside, class Source>
  ARCHCOST_INLINE void window(const Source& source, Vector bias, const Blocked& out, const Tile& tile) const {
    constexpr int kUnder = (kColumns - 1) * kStep + kWidth;
    const unsigned inside = inside_of<kUnder>(tile, of_.input.width);
    Vector sums[kColumns];
#pragma GCC unroll 7
    for (int column = 0; column < kColumns; ++column) sums[column] = bias;
    const float *line = tile.from, *weight = weights(tile);
    for (long i = 0; i < tile.rows; ++i) {
      source.each_channel([&](long k, const auto& channel) ARCHCOST_FLAT {
        Vector taps[kWidth];
#pragma GCC unroll 3
        for (int j = 0; j < kWidth; ++j) taps[j] = load(weight + (k * kWidth + j) * kLanes);
#pragma GCC unroll 15
        for (int pixel = 0; pixel < kUnder; ++pixel) {
          if (kWidth < kStep && pixel % kStep >= kWidth) continue;
          if (!kInside && !(inside >> pixel & 1)) continue;
          const Vector value = channel(line + pixel * kLanes);
#pragma GCC unroll 7
          for (int column = 0; column < kColumns; ++column) {
            const int tap = pixel - column * kStep;
            if (tap >= 0 && tap < kWidth) sums[column] += value * taps[tap];
          }
        }
      });
      line += window_.row_dilation * of_.input.row_stride, weight += row_of_weights();
    }
    finish_tile<kInside>(out, tile, sums, of_);
  }

  template <class Source>
  void any_window(const Source& source, Vector bias, const Blocked& out, const Tile& tile) const {
    Vector sums[kColumns];
#pragma GCC unroll 7
    for (int column = 0; column < kColumns; ++column) sums[column] = bias;
    const float *line = tile.from, *weight = weights(tile);
    for (long i = 0; i < tile.rows; ++i) {
      source.each_channel([&](long k, const auto& channel) {
        for (long j = 0; j < window_.width; ++j) {
          const Vector tap = load(weight + (k * window_.width + j) * kLanes);
          under_.each_output(tile, j, [&](int column, long x) ARCHCOST_FLAT {
            sums[column] += channel(line + x * kLanes) * tap;
          });
        }
      });
      line += window_.row_dilation * of_.input.row_stride, weight += row_of_weights();
    }
    finish_tile<false>(out, tile, sums, of_);
  }

  const UnderWindow& under_;
  const Window& window_;
  const ArchcostConvolution& of_;
  const long of_group_in_, of_group_out_;
  const float* const packed_;
  const float* const bias_;
};

void convolve_grouped(const ArchcostGrouped& grouped, const ArchcostConvolution& convolution, const float* input,
                      const float* packed, const float* bias, const float* addend, float* output) {
  const Epilogue epilogue(convolution, addend, output, grouped.activation);
  const UnderWindow under(window_of(grouped.window), epilogue.before(), input, output);
  const Grouped all(under, grouped.groups, packed, bias);
  with_width_and_step<1, 3>(under.window, [&](auto width, auto step) {
    under.each_row([&](long image, long block, long row) {
      all.row<width, step>(image, block, row);
      if (epilogue) epilogue(image, block * kLanes, kLanes, row, 0, 1, convolution.output.width);
    });
  });
}

}  // namespace
}  // namespace archcost

ARCHCOST_EXPORT std::int64_t archcost_grouped_packed_floats(const ArchcostWindow* window, std::int64_t out_channels,
                                                            std::int64_t in_of_group) {
  return archcost::round_up(out_channels, archcost::kLanes) * in_of_group * window->height * window->width;
}

// [block of outputs][row of the window][input channel of the group][column of the window][output]
ARCHCOST_EXPORT void archcost_grouped_pack(const ArchcostWindow* window, std::int64_t out_channels,
                                           std::int64_t in_of_group, const float* weights, float* packed) {
  const long taps = window->height * window->width;
  for (long first = 0; first < out_channels; first += archcost::kLanes) {
    for (long row = 0; row < window->height; ++row) {
      for (long k = 0; k < in_of_group; ++k) {
        for (long column = 0; column < window->width; ++column) {
          for (long out = first; out < first + archcost::kLanes; ++out) {
            const long from = (out * in_of_group + k) * taps + row * window->width + column;
            *packed++ = out < out_channels ? weights[from] : 0.0f;
          }
        }
      }
    }
  }
}

ARCHCOST_EXPORT void archcost_step_grouped(const void* arguments, float* const* places, int threads) {
  const auto& of = *static_cast<const ArchcostGrouped*>(arguments);
  const ArchcostConvolution convolution =
      archcost::with_limits({of.input, of.output, of.pad_top, of.pad_left, threads, 0, 0, 0}, of.activation);
  archcost::convolve_grouped(of, convolution, places[0], places[1], places[2], places[3], places[4]);
}
