// What the checks of the kernels share: random tensors in every layout, and what they should become, in double
// precision. Every buffer is exactly as large as the interface says, so that sanitizers see what is beside it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "activation.h"
#include "vector.h"
#include "window.h"

namespace checking {

using namespace archcost;
using Floats = std::vector<float>;

inline std::mt19937 generator(0);
inline int failures = 0;

inline Floats random_floats(long count) {
  std::normal_distribution<float> normal;
  Floats values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

inline long between(long low, long high) { return std::uniform_int_distribution<long>(low, high)(generator); }

// With what is behind the last one no number.
inline Floats whole_blocks(Floats values) {
  values.resize(round_up(long(values.size()), kLanes), NAN);
  return values;
}

inline void report(const char* what, long index, double found, double allowed) {
  if (found <= allowed) return;
  std::printf("%s %ld: error %.2g, allowed %.2g\n", what, index, found, allowed);
  ++failures;
}

enum Layout { kFirst, kLast, kBlocked };

inline ArchcostImages images(long batch, long channels, long height, long width, long layout) {
  if (layout == kBlocked) {
    const long plane = height * width * kLanes, blocks = divide_up(channels, kLanes);
    return {batch, channels, height, width, blocks * plane, 1, width * kLanes, kLanes, plane};
  }
  const long plane = height * width;
  if (layout == kLast && channels > 1) {
    return {batch, channels, height, width, channels * plane, 1, width * channels, channels, 0};
  }
  // A lone channel has no stride of its own: 2 says that columns lie together.
  return {batch, channels, height, width, channels * plane, channels > 1 ? plane : std::max(plane, 2L), width, 1, 0};
}

inline Layout layout_of(const ArchcostImages& of) {
  return is_blocked(of) ? kBlocked : of.channel_stride == 1 ? kLast : kFirst;
}

inline long size(const ArchcostImages& of) { return of.batch * of.batch_stride; }

inline long offset(const ArchcostImages& of, long n, long c, long i, long j) {
  const long channel = is_blocked(of) ? c / kLanes * of.block_stride + c % kLanes : c * of.channel_stride;
  return n * of.batch_stride + channel + i * of.row_stride + j * of.column_stride;
}

// [batch][channels][height][width].
struct Plain {
  Plain(long batch, long channels, long height, long width)
      : batch(batch), channels(channels), height(height), width(width), data(batch * channels * height * width) {}

  double& at(long n, long c, long i, long j) { return data[((n * channels + c) * height + i) * width + j]; }
  double at(long n, long c, long i, long j) const { return const_cast<Plain&>(*this).at(n, c, i, j); }

  // Calls work(n, c, i, j, value).
  template <class Work>
  void each(const Work& work) {
    double* value = data.data();
    for (long n = 0; n < batch; ++n) {
      for (long c = 0; c < channels; ++c) {
        for (long i = 0; i < height; ++i) {
          for (long j = 0; j < width; ++j) work(n, c, i, j, *value++);
        }
      }
    }
  }
  template <class Work>
  void each(const Work& work) const {
    const_cast<Plain*>(this)->each(work);
  }
  double largest() const {
    double most = 1e-30;
    for (double value : data) most = std::max(most, std::fabs(value));
    return most;
  }

  long batch, channels, height, width;
  std::vector<double> data;
};

inline Plain plain_of(const ArchcostImages& of, const Floats& data) {
  Plain plain(of.batch, of.channels, of.height, of.width);
  plain.each([&](long n, long c, long i, long j, double& value) { value = data[offset(of, n, c, i, j)]; });
  return plain;
}

// What is in no channel is no number.
inline Floats random_images(const ArchcostImages& of) {
  const Floats values = random_floats(size(of));
  Floats data(size(of), NAN);
  Plain(of.batch, of.channels, of.height, of.width).each([&](long n, long c, long i, long j, double&) {
    data[offset(of, n, c, i, j)] = values[offset(of, n, c, i, j)];
  });
  return data;
}

// The largest difference, relative to `scale` or to the largest number.
inline double error(const Plain& right, const ArchcostImages& of, const Floats& data, double scale = 0) {
  double worst = 0;
  right.each([&](long n, long c, long i, long j, double value) {
    const float found = data[offset(of, n, c, i, j)];
    const double difference = found == value ? 0 : std::fabs(found - value);
    worst = std::max(worst, std::isnan(difference) ? INFINITY : difference);
  });
  return worst / (scale > 0 ? scale : right.largest());
}

// `out` has the sizes of what comes out.
inline Plain convolved(const Plain& x, const Floats& weights, const Floats& bias, const Window& window, long pad_top,
                       long pad_left, long groups, Plain out) {
  const long depth = x.channels / groups, outs = out.channels / groups;
  out.each([&](long n, long k, long i, long j, double& sum) {
    sum = bias.empty() ? 0 : bias[k];
    for (long c = 0; c < depth; ++c) {
      for (long tap = 0; tap < window.taps(); ++tap) {
        const long y = i * window.row_step + window.row_of(tap) - pad_top;
        const long column = j * window.column_step + window.column_of(tap) - pad_left;
        if (y < 0 || column < 0 || y >= x.height || column >= x.width) continue;
        sum += x.at(n, k / outs * depth + c, y, column) * weights[(k * depth + c) * window.taps() + tap];
      }
    }
  });
  return out;
}

inline double activated(const ArchcostActivation& of, double x) {
  const auto sigmoid = [](double value) { return 1 / (1 + std::exp(-value)); };
  const double low = of.low, high = of.high;
  switch (of.kind) {
    case kClamp: return std::clamp(x, low, high);
    case kSilu: return x * sigmoid(x);
    case kHardswish: return x * std::clamp(x + 3, 0.0, 6.0) / 6;
    case kHardsigmoid: return std::clamp(x + 3, 0.0, 6.0) / 6;
    case kSigmoid: return sigmoid(x);
    case kGelu: return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case kGeluTanh: return x * 0.5 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case kLeakyRelu: return x > 0 ? x : x * low;
    case kTanh: return std::tanh(x);
    case kElu: return x > 0 ? x : low * std::expm1(x);
    case kMish: return x * std::tanh(std::log1p(std::exp(x)));
    case kSoftplus: return std::log1p(std::exp(x));
    default: return x;
  }
}

inline Plain activated(const ArchcostActivation& of, Plain x) {
  for (double& value : x.data) value = activated(of, value);
  return x;
}

inline ArchcostActivation random_activation() {
  const std::int64_t kind = between(kIdentity, kSoftplus);
  return {kind, kind == kClamp ? -0.5f : 0.25f, between(0, 1) ? 1.5f : INFINITY};
}

struct Layer {
  ArchcostConvolution of;
  long groups;
  Window window;
  Floats input, weights, bias, output;
};

inline void fill(Layer& layer) {
  const long ins = layer.of.input.channels / layer.groups, outs = layer.of.output.channels;
  layer.input = random_images(layer.of.input);
  layer.weights = random_floats(outs * ins * layer.window.taps());
  layer.bias = random_floats(outs);
  layer.output.assign(size(layer.of.output), NAN);
}

// Of stride 1, in the first layouts, input and output each in its own.
inline Layer random_layer(long kernel_height, long kernel_width, bool depthwise = false, Layout until = kBlocked) {
  Layer layer = {};
  layer.window = {kernel_height, kernel_width, 1, 1, 1, 1};
  ArchcostConvolution& of = layer.of;
  const long batch = between(1, 3), in = between(1, 40), out = depthwise ? in : between(1, 70);
  layer.groups = depthwise ? in : 1;
  of.pad_top = between(0, kernel_height - 1), of.pad_left = between(0, kernel_width - 1);
  of.input = images(batch, in, between(kernel_height, kernel_height + 17),
                    between(kernel_width, kernel_width + 40), between(0, until));
  const long low_top = between(0, kernel_height - 1), low_left = between(0, kernel_width - 1);
  of.output = images(batch, out, of.input.height + of.pad_top + low_top - kernel_height + 1,
                     of.input.width + of.pad_left + low_left - kernel_width + 1, between(0, until));
  of.low = between(0, 1) ? -INFINITY : -0.5f, of.high = between(0, 1) ? INFINITY : 2.0f;
  of.threads = between(1, 3), of.block_tiles = between(0, 1) * between(1, 40);
  fill(layer);
  return layer;
}

// The same layer with steps: fewer outputs, or a larger input.
inline void spread(Layer& layer, const Window& window) {
  ArchcostImages &in = layer.of.input, &out = layer.of.output;
  layer.window = window;
  in = images(in.batch, in.channels, in.height + (window.height - 1) * (window.row_dilation - 1),
              in.width + (window.width - 1) * (window.column_dilation - 1), layout_of(in));
  out = images(out.batch, out.channels, (out.height - 1) / window.row_step + 1,
               (out.width - 1) / window.column_step + 1, layout_of(out));
  fill(layer);
}

// The same layer with other channels, in these layouts.
inline void reshape(Layer& layer, const Window& window, long groups, long in, long out, Layout of_input,
                    Layout of_output) {
  ArchcostConvolution& of = layer.of;
  layer.groups = groups;
  of.input = images(of.input.batch, groups * in, of.input.height, of.input.width, of_input);
  of.output = images(of.output.batch, groups * out, of.output.height, of.output.width, of_output);
  spread(layer, window);
}

// Before anything is done to the sums.
inline Plain expected(const Layer& layer, const Floats& bias) {
  const ArchcostImages& out = layer.of.output;
  return convolved(plain_of(layer.of.input, layer.input), layer.weights, bias, layer.window, layer.of.pad_top,
                   layer.of.pad_left, layer.groups, Plain(out.batch, out.channels, out.height, out.width));
}

// Relative to the largest output before it is limited.
inline double error(const Layer& layer) {
  const Plain sums = expected(layer, layer.bias);
  return error(activated({kClamp, layer.of.low, layer.of.high}, sums), layer.of.output, layer.output,
               sums.largest());
}

// Each in a file of its own.
void check_convolution_steps();
void check_other_steps();
void check_threads();
void check_watch();

}  // namespace checking
