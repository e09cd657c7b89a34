#include "direct.h"

#include <cstring>
#include <optional>

#include "export.h"
#include "items.h"
#include "pixel_tile.h"
#include "scratch.h"
#include "window.h"

namespace archcost {
namespace {

// Floats that stay in the second-level cache while tiles are worked on: of all weights, and of inputs.
constexpr long kNearWeights = 96 << 10;
constexpr long kNearInput = 96 << 10;

// The order of the taps of one channel in the packed weights. In blocked layout it is theirs. From NCHW a
// stretch is a row of taps of one phase (every step-th column): first the phases with more of them.
struct TapOrder {
  TapOrder(const Window& window, bool blocked) : window(window) {
    if (blocked) return;
    const long step = window.column_step;
    if (window.column_dilation != 1 || window.width <= step) return;
    length = divide_up(window.width, step);
    rest_phases = round_up(window.width, step) - window.width;
  }
  long phases() const { return window.column_step; }

  const Window window;
  long length = 1;       // of a stretch from NCHW
  long rest_phases = 0;  // with one tap less
};

long depth_of(const Window& window, long channels) { return window.taps() * channels; }

// Calls each(channel, tap row, tap column) in the order of the depth.
template <class Each>
void each_weight(const Window& window, long channels, bool blocked, Each each) {
  if (blocked) {
    for (long first = 0; first < channels; first += kLanes) {
      for (long tap = 0; tap < window.taps(); ++tap) {
        for (long c = first; c < std::min(first + kLanes, channels); ++c) {
          each(c, tap / window.width, tap % window.width);
        }
      }
    }
    return;
  }
  const TapOrder order(window, blocked);
  const auto phases = [&](long from, long until, long length) {
    for (long c = 0; c < channels; ++c) {
      for (long i = 0; i < window.height; ++i) {
        for (long phase = from; phase < until; ++phase) {
          for (long t = 0; t < length; ++t) each(c, i, phase + t * order.phases());
        }
      }
    }
  };
  if (order.length == 1) {
    for (long c = 0; c < channels; ++c) {
      for (long tap = 0; tap < window.taps(); ++tap) each(c, tap / window.width, tap % window.width);
    }
    return;
  }
  phases(0, order.phases() - order.rest_phases, order.length);
  phases(order.phases() - order.rest_phases, order.phases(), order.length - 1);
}

class Direct {
 public:
  Direct(const ArchcostDirect& of, float* const* places, int threads)
      : of_(of),
        window_{of.height, of.width, of.row_step, of.column_step, of.row_dilation, of.column_dilation},
        input_(places[0]),
        weights_(places[1]),
        bias_(places[2]),
        output_(places[3]),
        addend_(places[4]),
        scale_(places[5]),
        shift_(places[6]),
        gate_(places[7]),
        channel_offsets_(reinterpret_cast<const std::int64_t*>(places[8])),
        threads_(std::max(threads, 1)),
        blocked_(of.input.column_stride == kLanes),
        step_(blocked_ ? kLanes : 1) {
    flatten();
    const ArchcostImages &in = of_.input, &out = of_.output;
    depth_ = depth_of(window_, in.channels);
    const bool inside = of_.pad_top == 0 && of_.pad_left == 0 &&
                        window_.rows_under(out.height) <= in.height &&
                        window_.columns_under(out.width) <= in.width;
    stages_ = !inside || (window_.column_step != 1) || scale_;
    stages_gate_ = gate_ && !channel_offsets_ && (stages_ || out.channels > out.height * out.width);
    folds_gate_ = gate_ && !stages_gate_;
    stages_ = stages_ || stages_gate_;
    divide();
    patch_floats_ = stages_ ? round_up(patch_of(group_height_, group_width_), kLanes) : 0;
    const long folded = folds_gate_ ? packed_floats() + round_up(depth_, kLanes) : 0;
    scratch_.emplace(2 * depth_ + folded + threads_ * patch_floats_);
    folded_ = scratch_->data(), patches_ = folded_ + folded;
    offsets_ = reinterpret_cast<std::int64_t*>(patches_ + threads_ * patch_floats_);
    lay_out();
  }

  void run() {
    if (of_.output.batch == 0) return;
    if (!folds_gate_) return run_images(0, of_.output.batch, weights_);
    for (long image = 0; image < of_.output.batch; ++image) {
      fold(image, folded_);
      run_images(image, 1, folded_);
    }
  }

 private:
  struct Group {
    long image, top, left, height, width;
  };

  // Where the window is one pixel, an image is one row of pixels if it lies in memory like that.
  void flatten() {
    ArchcostImages &in = of_.input, &out = of_.output, &addend = of_.addend;
    if (!blocked_ || window_.taps() != 1 || window_.row_step != 1 || window_.column_step != 1) return;
    if (of_.pad_top || of_.pad_left || in.height != out.height || in.width != out.width) return;
    if (!rows_end_to_end(in) || !rows_end_to_end(out) || (addend_ && !rows_end_to_end(addend))) return;
    in = flattened(in), out = flattened(out);
    if (addend_) addend = flattened(addend);
  }

  long packed_floats() const { return round_up(of_.output.channels, kLanes) * depth_; }

  long patch_columns(long width) const {
    return divide_up(window_.columns_under(width), window_.column_step);
  }
  long patch_row(long width) const { return patch_columns(width) * window_.column_step * step_; }
  long patch_of(long height, long width) const {
    const long planes = blocked_ ? divide_up(of_.input.channels, kLanes) : of_.input.channels;
    return planes * window_.rows_under(height) * patch_row(width) + kLanes;
  }

  // Into groups of outputs whose inputs, or staged inputs, stay near.
  void divide() {
    const ArchcostImages& out = of_.output;
    panel_outer_ = packed_floats() > kNearWeights;
    group_height_ = out.height, group_width_ = out.width;
    const auto too_large = [&] {
      return (stages_ || panel_outer_) && patch_of(group_height_, group_width_) > kNearInput;
    };
    const long floor_width = std::min<long>(out.width, kRows);
    while (too_large() && group_height_ > 2) group_height_ = divide_up(group_height_, 2);
    while (too_large() && group_width_ > floor_width) {
      group_width_ = std::max(floor_width, round_up(divide_up(group_width_, 2), kRows));
    }
    panel_groups_ = 1;
    panels_ = panels_of(out.channels);
    if (threads_ == 1 || out.batch == 0) return;
    while (items(out.batch) < 4 * threads_ && group_height_ > 4) group_height_ = divide_up(group_height_, 2);
    if (out.height == 1) {
      while (items(out.batch) < 4 * threads_ && group_width_ > 4 * kRows) {
        group_width_ = round_up(divide_up(group_width_, 2), kRows);
      }
    }
    if (items(out.batch) < 2 * threads_) {
      panel_groups_ = std::min(panels_, divide_up(2 * threads_, items(out.batch)));
    }
  }
  long row_groups() const { return divide_up(of_.output.height, group_height_); }
  long column_groups() const { return divide_up(of_.output.width, group_width_); }
  long items(long images) const { return images * row_groups() * column_groups() * panel_groups_; }

  // The offsets of the depth's stretches from the first pixel under a tile.
  void lay_out() {
    const ArchcostImages &in = of_.input, &out = of_.output;
    const long row = stages_ ? patch_row(group_width_) : in.row_stride;
    const long plane = stages_    ? window_.rows_under(group_height_) * row
                       : blocked_ ? in.block_stride
                                  : in.channel_stride;
    patch_row_ = row, patch_plane_ = plane;
    const long phase = stages_ ? patch_columns(group_width_) * step_ : 0;
    const auto offset = [&](long tap_row, long tap_column) {
      const long column = tap_column * window_.column_dilation;
      return tap_row * window_.row_dilation * row + column % window_.column_step * phase +
             column / window_.column_step * step_;
    };
    long count = 0;
    if (channel_offsets_) {
      tile_.whole = {channel_offsets_, in.channels, 1};
      tile_.rest = {nullptr, 0, 0};
    } else if (blocked_) {
      const long rest = in.channels % kLanes, blocks = in.channels / kLanes;
      for (long block = 0; block < divide_up(in.channels, kLanes); ++block) {
        for (long tap = 0; tap < window_.taps(); ++tap) {
          offsets_[count++] = block * plane + offset(tap / window_.width, tap % window_.width);
        }
      }
      tile_.whole = {offsets_, blocks * window_.taps(), kLanes};
      tile_.rest = {offsets_ + blocks * window_.taps(), rest ? window_.taps() : 0, rest};
    } else {
      const TapOrder order(window_, blocked_);
      long whole = 0;
      each_weight(window_, in.channels, blocked_, [&](long c, long i, long j) {
        if (order.length > 1 && j >= order.phases()) return;
        whole += j < order.phases() - order.rest_phases || order.length == 1;
        offsets_[count++] = c * plane + offset(i, j);
      });
      tile_.whole = {offsets_, whole, order.length};
      tile_.rest = {offsets_ + whole, count - whole, order.length - 1};
    }
    tile_.input_row = window_.row_step * row;
    tile_.output_row = out.row_stride, tile_.output_block = out.block_stride;
    tile_.addend_row = of_.addend.row_stride, tile_.addend_block = of_.addend.block_stride;
    tile_.activation = of_.activation;
  }

  void fold(long image, float* to) const {
    const float* const gate = gate_ + image * of_.gate_batch_stride;
    float* factors = to + packed_floats();
    each_weight(window_, of_.input.channels, blocked_, [&](long c, long, long) { *factors++ = gate[c]; });
    factors -= depth_;
    const float* from = weights_;
    for (long panel = 0; panel < panels_; ++panel) {
      const long blocks = blocks_of(panel);
      for (long k = 0; k < depth_; ++k) {
        for (long j = 0; j < blocks; ++j, from += kLanes, to += kLanes) {
          store(to, load(from) * broadcast(factors[k]));
        }
      }
    }
  }

  void run_images(long first, long count, const float* weights) const {
    const auto work = [&](long item, int worker) {
      const long panel_group = item % panel_groups_;
      item /= panel_groups_;
      const long column = item % column_groups() * group_width_;
      item /= column_groups();
      const long row = item % row_groups() * group_height_;
      const Group group{first + item / row_groups(), row, column,
                        std::min<long>(group_height_, of_.output.height - row),
                        std::min<long>(group_width_, of_.output.width - column)};
      const Pieces panels(panels_, divide_up(panels_, panel_groups_));
      if (panel_group >= panels.count) return;
      run_group(group, panels.begin(panel_group), panels.length(panel_group), weights,
                patches_ + worker * patch_floats_);
    };
    for_items(threads_, items(count), work);
  }

  long blocks_of(long panel) const {
    return std::min<long>(kPanelBlocks, divide_up(of_.output.channels, kLanes) - panel * kPanelBlocks);
  }

  void run_group(const Group& group, long first_panel, long panels, const float* weights,
                 float* patch) const {
    const ArchcostImages& in = of_.input;
    const float* input;
    if (stages_) {
      stage(group, patch);
      input = patch;
    } else {
      input = input_ + group.image * in.batch_stride + group.top * window_.row_step * in.row_stride +
              group.left * in.column_stride;
    }
    const auto place = [&](const ArchcostImages& images) {
      return group.image * images.batch_stride + group.top * images.row_stride +
             group.left * images.column_stride;
    };
    TileRegion region;
    region.input = input, region.weights = weights, region.bias = bias_;
    region.addend = addend_ ? addend_ + place(of_.addend) : nullptr;
    region.output = output_ + place(of_.output);
    region.rows = group.height, region.columns = group.width;
    region.channels = of_.output.channels;
    region.first_panel = first_panel, region.panels = panels;
    region.panel_outer = panel_outer_;
    multiply_region(tile_, region, step_);
  }

  // Copies what the windows of a group look at, columns of one phase (every step-th one) side by side.
  void stage(const Group& group, float* patch) const {
    const ArchcostImages& in = of_.input;
    const long planes = blocked_ ? divide_up(in.channels, kLanes) : in.channels;
    const long rows = window_.rows_under(group.height);
    const long top = group.top * window_.row_step - of_.pad_top;
    for (long plane = 0; plane < planes; ++plane) {
      const float* const from =
          input_ + group.image * in.batch_stride + plane * (blocked_ ? in.block_stride : in.channel_stride);
      for (long r = 0; r < rows; ++r) {
        if (window_.row_dilation == 1 && r % window_.row_step >= window_.height) continue;
        float* const to = patch + plane * patch_plane_ + r * patch_row_;
        const bool inside = top + r >= 0 && top + r < in.height;
        stage_row(group, plane, inside ? from + (top + r) * in.row_stride : nullptr, to);
      }
    }
  }

  void stage_row(const Group& group, long plane, const float* from, float* to) const {
    const long step = window_.column_step, columns = patch_columns(group_width_);
    const long under = window_.columns_under(group.width);
    const long left = group.left * step - of_.pad_left;
    for (long phase = 0; phase < std::min(step, under); ++phase) {
      if (window_.column_dilation == 1 && phase >= window_.width) break;
      const long count = divide_up(under - phase, step);
      // Those in the image: left + phase + i * step in [0, width).
      const long first = left + phase;
      const long begin = from ? std::min(count, first < 0 ? divide_up(-first, step) : 0) : count;
      const long end = std::clamp(divide_up(of_.input.width - first, step), begin, count);
      float* const row = to + phase * columns * step_;
      std::memset(row, 0, begin * step_ * sizeof(float));
      if (end > begin) {
        const float* const pixels = from + (first + begin * step) * step_;
        copy(group.image, plane, pixels, step * step_, row + begin * step_, end - begin);
      }
      std::memset(row + end * step_, 0, (count - end) * step_ * sizeof(float));
    }
  }

  void copy(long image, long plane, const float* from, long from_step, float* to, long count) const {
    if (!blocked_) {
      float factor = 1, shift = 0;
      if (scale_) factor = scale_[plane], shift = shift_[plane];
      const float gate = stages_gate_ ? gate_[image * of_.gate_batch_stride + plane] : 1;
      for (long i = 0; i < count; ++i) {
        float value = from[i * from_step];
        if (scale_) {
          value = within(value * factor + shift, of_.input_low, of_.input_high);
        }
        to[i] = stages_gate_ ? value * gate : value;
      }
      return;
    }
    if (!scale_ && !stages_gate_) {
      for (long i = 0; i < count; ++i) store(to + i * kLanes, load(from + i * from_step));
      return;
    }
    const Vector gate =
        stages_gate_ ? load(gate_ + image * of_.gate_batch_stride + plane * kLanes) : broadcast(1);
    if (!scale_) {
      for (long i = 0; i < count; ++i) store(to + i * kLanes, load(from + i * from_step) * gate);
      return;
    }
    const Vector factor = load(scale_ + plane * kLanes), shift = load(shift_ + plane * kLanes);
    const Vector low = broadcast(of_.input_low), high = broadcast(of_.input_high);
    for (long i = 0; i < count; ++i) {
      const Vector value = within(load(from + i * from_step) * factor + shift, low, high);
      store(to + i * kLanes, stages_gate_ ? value * gate : value);
    }
  }

  ArchcostDirect of_;
  const Window window_;
  const float *const input_, *const weights_, *const bias_;
  float* const output_;
  const float *const addend_, *const scale_, *const shift_, *const gate_;
  const std::int64_t* const channel_offsets_;
  const int threads_;
  const bool blocked_;
  const long step_;  // floats from a pixel to its neighbour
  bool stages_, stages_gate_, folds_gate_, panel_outer_;
  long depth_, panels_, panel_groups_, group_height_, group_width_;
  long patch_floats_, patch_row_, patch_plane_;
  TileProduct tile_;
  std::optional<Scratch> scratch_;
  float *folded_, *patches_;
  std::int64_t* offsets_;
};

}  // namespace
}  // namespace archcost

// A window: taps, strides and dilations, each vertical and horizontal. `blocked` is 0 for input in NCHW.
ARCHCOST_EXPORT std::int64_t archcost_direct_packed_floats(const std::int64_t (&window)[6],
                                                           std::int64_t out_channels,
                                                           std::int64_t in_channels) {
  return archcost::round_up(out_channels, archcost::kLanes) * in_channels * window[0] * window[1];
}

// Weights are [out_channels][in_channels][height][width].
ARCHCOST_EXPORT void archcost_direct_pack(const std::int64_t (&window)[6], std::int64_t out_channels,
                                          std::int64_t in_channels, std::int64_t blocked,
                                          const float* weights, float* packed) {
  using namespace archcost;
  const Window of{window[0], window[1], window[2], window[3], window[4], window[5]};
  const long blocks = divide_up(out_channels, kLanes);
  for (long first = 0; first < blocks; first += kPanelBlocks) {
    const long width = std::min<long>(kPanelBlocks, blocks - first) * kLanes;
    each_weight(of, in_channels, blocked, [&](long c, long i, long j) {
      for (long lane = 0; lane < width; ++lane, ++packed) {
        const long k = first * kLanes + lane;
        *packed = k < out_channels ? weights[((k * in_channels + c) * of.height + i) * of.width + j] : 0;
      }
    });
  }
}

ARCHCOST_EXPORT void archcost_step_direct(const void* arguments, float* const* places, int threads) {
  archcost::Direct(*static_cast<const ArchcostDirect*>(arguments), places, threads).run();
}
