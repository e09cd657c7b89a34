#include "inverted_residual.h"

#include <cstring>

#include "export.h"
#include "items.h"
#include "pixel_tile.h"
#include "scratch.h"

namespace archcost {
namespace {

// Floats of each that stay in the second-level cache together: outputs of the depthwise convolution in a band, its
// inputs for a pair of blocks, and weights of the projection that are not streamed.
constexpr long kNearFiltered = 96 << 10;
constexpr long kNearExpanded = 32 << 10;
constexpr long kNearWeights = 64 << 10;

// Maps with more rows are divided among threads by rows, smaller ones by channels.
constexpr long kRowsOfThreads = 20;

// A row of outputs of a block; all that the window looks at is in `input`.
template <int kTaps, int kStep, int kColumns>
ARCHCOST_INLINE void filter_columns(const float* input, long input_row, const float* weights, Vector bias,
                                    const ArchcostActivation& activation, float* output) {
  Vector sum[kColumns];
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) sum[c] = bias;
  for (int i = 0; i < kTaps; ++i, input += input_row) {
    Vector factors[kTaps];
#pragma GCC unroll 8
    for (int j = 0; j < kTaps; ++j) factors[j] = load(weights + (i * kTaps + j) * kLanes);
#pragma GCC unroll 32
    for (int x = 0; x < (kColumns - 1) * kStep + kTaps; ++x) {
      const Vector value = load(input + x * kLanes);
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        if (x >= c * kStep && x < c * kStep + kTaps) sum[c] += value * factors[x - c * kStep];
      }
    }
  }
  if (activation.kind == kClamp) {
    const Vector low = broadcast(activation.low), high = broadcast(activation.high);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      sum[c] = within(sum[c], low, high);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) store(output + c * kLanes, sum[c]);
}

// In pieces of one size, the last one overlapping the one before.
template <int kTaps, int kStep, int kColumns>
void filter_pieces(const float* input, long input_row, const float* weights, Vector bias,
                   const ArchcostActivation& activation, float* output, long width) {
  for (long column = 0; column < width; column += kColumns) {
    const long at = std::min(column, width - kColumns);
    filter_columns<kTaps, kStep, kColumns>(input + at * kStep * kLanes, input_row, weights, bias, activation,
                                           output + at * kLanes);
  }
}

template <int kTaps, int kStep>
void filter_row(const float* input, long input_row, const float* weights, Vector bias,
                const ArchcostActivation& activation, float* output, long width) {
  constexpr int kMost = kRows < 12 ? 4 : 7;
  const auto filter = width >= kMost ? filter_pieces<kTaps, kStep, kMost>
                      : width >= 4   ? filter_pieces<kTaps, kStep, 4>
                                     : filter_pieces<kTaps, kStep, 1>;
  filter(input, input_row, weights, bias, activation, output, width);
  if (activation.kind > kClamp) activate(activation, output, width * kLanes);
}

using FilterRow = decltype(&filter_row<3, 1>);

FilterRow filter_of(long taps, long step) {
  if (taps == 3) return step == 1 ? filter_row<3, 1> : filter_row<3, 2>;
  if (taps == 5) return step == 1 ? filter_row<5, 1> : filter_row<5, 2>;
  return step == 1 ? filter_row<7, 1> : filter_row<7, 2>;
}

void add_row(const float* row, long width, float* sums) {
  Vector sum[4] = {load(sums)};
  long x = 0;
  for (; x + 4 <= width; x += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sum[i] += load(row + (x + i) * kLanes);
  }
  for (; x < width; ++x) sum[1] += load(row + x * kLanes);
  store(sums, sum[0] + sum[1] + (sum[2] + sum[3]));
}

class InvertedResidual {
 public:
  InvertedResidual(const ArchcostInvertedResidual& of, float* const* places, int threads)
      : of_(of),
        input_(places[0]),
        expansion_(places[1]),
        expansion_bias_(places[2]),
        depthwise_(places[3]),
        depthwise_bias_(places[4]),
        projection_(places[5]),
        projection_bias_(places[6]),
        output_(places[7]),
        addend_(places[8]),
        sums_(projection_ ? nullptr : places[9]),
        threads_(std::max(threads, 1)),
        filter_(filter_of(of.taps, of.step)) {
    const ArchcostImages &in = of_.input, &out = of_.output;
    height_ = out.height, width_ = out.width;
    blocks_ = divide_up(of_.channels, kLanes), pairs_ = panels_of(of_.channels);
    expanded_columns_ = std::max<long>(in.width + of_.pad_left, (width_ - 1) * of_.step + of_.taps);
    overlap_ = of_.taps - of_.step;
    by_channels_ = threads_ > out.batch && height_ <= kRowsOfThreads;
    strips_ = threads_ > out.batch && !by_channels_ ? std::min<long>(threads_, divide_up(height_, 4)) : 1;
    const Pieces strips(height_, divide_up(height_, strips_));
    strips_ = strips.count;
    band_ = strips.length(0);
    while (band_ > 1 && (filtered_floats() > kNearFiltered || expanded_floats() > kNearExpanded)) {
      band_ = divide_up(band_, 2);
    }
  }

  void run() {
    const long workers = by_channels_ ? 1 : threads_, buffers = threads_;
    const long filtered = projection_ ? filtered_floats() : 0;
    const long kept = band_ < height_ ? blocks_ * overlap_ * expanded_row() : 0;
    const long sums = sums_ ? of_.output.batch * strips_ * blocks_ * kLanes : 0;
    const long offsets = 2 * (divide_up(of_.input.channels, kLanes) + blocks_);
    Scratch scratch(workers * (filtered + kept) + buffers * expanded_floats() + sums + offsets + kLanes);
    float* free = scratch.data();
    const auto take = [&](long floats) { return free += floats, free - floats; };
    expanded_ = take(buffers * expanded_floats());
    std::memset(expanded_, 0, buffers * expanded_floats() * sizeof(float));
    strip_sums_ = take(sums);
    std::memset(strip_sums_, 0, sums * sizeof(float));
    filtered_ = take(workers * filtered), kept_ = take(workers * kept);
    describe(reinterpret_cast<std::int64_t*>(take(round_up(offsets, kLanes))));
    const long items = of_.output.batch * strips_;
    const auto strip = [&](long item, int worker) {
      run_strip(item, filtered_ + worker * filtered, kept_ + worker * kept, worker);
    };
    for_items(by_channels_ ? 1 : threads_, items, strip);
    if (sums_) add_strips();
  }

 private:
  struct Band {
    long image, strip, top, rows;
    bool begins, ends;   // its strip
    float *filtered, *kept;
  };

  long expanded_row() const { return expanded_columns_ * kLanes; }
  long expanded_rows(long rows) const { return (rows - 1) * of_.step + of_.taps; }
  long expanded_block() const { return expanded_rows(band_) * expanded_row(); }
  long expanded_floats() const { return kPanelBlocks * expanded_block(); }
  long filtered_block() const { return band_ * width_ * kLanes; }
  long filtered_floats() const { return blocks_ * filtered_block(); }

  void describe(std::int64_t* offsets) {
    const ArchcostImages &in = of_.input, &out = of_.output;
    const auto depth = [](TileProduct& of, long channels, long block, std::int64_t* offsets) {
      for (long i = 0; i < divide_up(channels, kLanes); ++i) offsets[i] = i * block;
      const long whole = channels / kLanes, rest = channels % kLanes;
      of.whole = {offsets, whole, kLanes};
      of.rest = {offsets + whole, rest ? 1 : 0, rest};
    };
    expand_.activation = of_.expansion;
    depth(expand_, in.channels, in.block_stride, offsets);
    expand_.input_row = in.row_stride;
    expand_.output_row = expanded_row(), expand_.output_block = expanded_block();
    project_.activation = of_.projection;
    depth(project_, of_.channels, filtered_block(), offsets + divide_up(in.channels, kLanes));
    project_.input_row = width_ * kLanes;
    project_.output_row = out.row_stride, project_.output_block = out.block_stride;
    project_.addend_row = of_.addend.row_stride, project_.addend_block = of_.addend.block_stride;
    flat_ = rows_end_to_end(out) && (!addend_ || rows_end_to_end(of_.addend));
  }

  void run_strip(long item, float* filtered, float* kept, int worker) const {
    const long image = item / strips_, strip = item % strips_;
    const Pieces strips(height_, divide_up(height_, strips_));
    const long top = strips.begin(strip), rows = strips.length(strip);
    const Pieces bands(rows, band_);
    for (long i = 0; i < bands.count; ++i) {
      const Band band{image,  strip,    top + bands.begin(i), bands.length(i),
                      i == 0, i + 1 == bands.count, filtered, kept};
      if (!by_channels_) {
        for (long pair = 0; pair < pairs_; ++pair) expand_and_filter(band, pair, worker);
        if (projection_) project(band, 0, panels_of(of_.output.channels));
        continue;
      }
      parallel_for(threads_, pairs_, [&](long pair, int by) { expand_and_filter(band, pair, by); });
      if (!projection_) continue;
      const auto one = [&](long panel, int) { project(band, panel, 1); };
      parallel_for(threads_, panels_of(of_.output.channels), one);
    }
  }

  void expand_and_filter(const Band& band, long pair, int worker) const {
    float* const expanded = expanded_ + worker * expanded_floats();
    const long first = pair * kPanelBlocks, blocks = std::min<long>(kPanelBlocks, blocks_ - first);
    fill(band, pair, blocks, expanded);
    const ArchcostImages& out = of_.output;
    for (long j = 0; j < blocks; ++j) {
      const long block = first + j;
      const Vector bias = depthwise_bias_ ? load(depthwise_bias_ + block * kLanes) : Vector{};
      const float* const weights = depthwise_ + block * of_.taps * of_.taps * kLanes;
      float* const sums = sums_of(band.image, band.strip, block);
      for (long row = 0; row < band.rows; ++row) {
        float* const to = projection_ ? band.filtered + block * filtered_block() + row * width_ * kLanes
                                      : output_ + band.image * out.batch_stride + block * out.block_stride +
                                            (band.top + row) * out.row_stride;
        const float* const from = expanded + j * expanded_block() + row * of_.step * expanded_row();
        filter_(from, expanded_row(), weights, bias, of_.depthwise, to, width_);
        if (sums_) add_row(to, width_, sums);
      }
    }
  }

  // The rows that the windows of a band look at, of a pair of blocks; the first ones are kept from the band before.
  void fill(const Band& band, long pair, long blocks, float* expanded) const {
    const ArchcostImages& in = of_.input;
    const long first = pair * kPanelBlocks, rows = expanded_rows(band.rows);
    const long top = band.top * of_.step - of_.pad_top;
    const long known = band.begins ? 0 : overlap_, row = expanded_row();
    const auto kept = [&](long j) { return band.kept + (first + j) * overlap_ * row; };
    const long begin = std::clamp(-top, known, rows), end = std::clamp<long>(in.height - top, begin, rows);
    for (long j = 0; j < blocks; ++j) {
      float* const block = expanded + j * expanded_block();
      std::memcpy(block, kept(j), known * row * sizeof(float));
      std::memset(block + known * row, 0, (begin - known) * row * sizeof(float));
      std::memset(block + end * row, 0, (rows - end) * row * sizeof(float));
    }
    float* const to = expanded + begin * row + of_.pad_left * kLanes;
    const float* const from = input_ + band.image * in.batch_stride + (top + begin) * in.row_stride;
    if (end > begin && expansion_) {
      TileRegion region{};
      region.input = from, region.output = to;
      region.weights = expansion_, region.bias = expansion_bias_;
      region.output = to - first * expanded_block();
      region.rows = end - begin, region.columns = in.width;
      region.channels = of_.channels;
      region.first_panel = pair, region.panels = 1;
      multiply_region(expand_, region, kLanes);
    } else {
      for (long j = 0; j < blocks; ++j) {
        for (long i = 0; i < end - begin; ++i) {
          const float* const pixels = from + (first + j) * in.block_stride + i * in.row_stride;
          std::memcpy(to + j * expanded_block() + i * row, pixels, in.width * kLanes * sizeof(float));
        }
      }
    }
    if (band.ends) return;
    for (long j = 0; j < blocks; ++j) {
      std::memcpy(kept(j), expanded + j * expanded_block() + band.rows * of_.step * row,
                  overlap_ * row * sizeof(float));
    }
  }

  void project(const Band& band, long first_panel, long panels) const {
    const auto place = [&](const ArchcostImages& images) {
      return band.image * images.batch_stride + band.top * images.row_stride;
    };
    TileRegion region;
    region.input = band.filtered, region.weights = projection_, region.bias = projection_bias_;
    region.addend = addend_ ? addend_ + place(of_.addend) : nullptr;
    region.output = output_ + place(of_.output);
    region.rows = flat_ ? 1 : band.rows, region.columns = flat_ ? band.rows * width_ : width_;
    region.channels = of_.output.channels;
    region.first_panel = first_panel, region.panels = panels;
    region.panel_outer = round_up(of_.output.channels, kLanes) * of_.channels > kNearWeights;
    multiply_region(project_, region, kLanes);
  }

  float* sums_of(long image, long strip, long block) const {
    return strip_sums_ + ((image * strips_ + strip) * blocks_ + block) * kLanes;
  }

  void add_strips() const {
    for (long image = 0; image < of_.output.batch; ++image) {
      for (long block = 0; block < blocks_; ++block) {
        Vector sum = {};
        for (long strip = 0; strip < strips_; ++strip) {
          sum += load(sums_of(image, strip, block));
        }
        store(sums_ + image * of_.sums_batch_stride + block * kLanes, sum);
      }
    }
  }

  const ArchcostInvertedResidual of_;
  const float *const input_, *const expansion_, *const expansion_bias_;
  const float *const depthwise_, *const depthwise_bias_, *const projection_, *const projection_bias_;
  float* const output_;
  const float* const addend_;
  float* const sums_;
  const int threads_;
  const FilterRow filter_;
  long height_, width_, blocks_, pairs_, expanded_columns_, overlap_, strips_, band_;
  bool by_channels_, flat_;
  TileProduct expand_, project_;
  float *expanded_, *filtered_, *kept_, *strip_sums_;
};

}  // namespace
}  // namespace archcost

// Expansion and projection are packed by archcost_direct_pack, as windows of one pixel. The weights of the
// depthwise convolution are [channels][taps][taps].
ARCHCOST_EXPORT std::int64_t archcost_inverted_residual_packed_floats(std::int64_t taps,
                                                                      std::int64_t channels) {
  return archcost::round_up(channels, archcost::kLanes) * taps * taps;
}

ARCHCOST_EXPORT void archcost_inverted_residual_pack(std::int64_t taps, std::int64_t channels,
                                                     const float* weights, float* packed) {
  using archcost::kLanes;
  for (long c = 0; c < archcost::round_up(channels, kLanes); ++c) {
    for (long tap = 0; tap < taps * taps; ++tap) {
      float& to = packed[(c / kLanes * taps * taps + tap) * kLanes + c % kLanes];
      to = c < channels ? weights[c * taps * taps + tap] : 0;
    }
  }
}

ARCHCOST_EXPORT void archcost_step_inverted_residual(const void* arguments, float* const* places, int threads) {
  archcost::InvertedResidual(*static_cast<const ArchcostInvertedResidual*>(arguments), places, threads).run();
}
