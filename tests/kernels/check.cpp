// The kernels against the definition of a convolution, built with sanitizers: every buffer is exactly as large
// as the interface says, so that a read or a write beside it is seen. Exits with 1 if a result is wrong.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "depthwise.h"
#include "depthwise_direct.h"
#include "fft.h"
#include "fft_tile.h"
#include "grouped.h"
#include "im2col.h"
#include "pool.h"
#include "scratch.h"
#include "tiled_convolution.h"
#include "winograd.h"

namespace {

using namespace archcost;

std::mt19937 generator(0);

std::vector<float> random_floats(long count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

long between(long low, long high) { return std::uniform_int_distribution<long>(low, high)(generator); }

enum Layout { kFirst, kLast, kBlocked };

ArchcostImages images(long batch, long channels, long height, long width, long layout) {
  if (layout == kBlocked) {
    const long plane = height * width * kLanes, blocks = divide_up(channels, kLanes);
    return {batch, channels, height, width, blocks * plane, 1, width * kLanes, kLanes, plane};
  }
  // A lone channel has no stride of its own: 2 says that columns lie together.
  return layout == kLast && channels > 1
             ? ArchcostImages{batch, channels, height, width, channels * height * width, 1, width * channels,
                              channels, 0}
             : ArchcostImages{batch,  channels, height, width, channels * height * width,
                              std::max(height * width, 2L), width, 1, 0};
}

Layout layout_of(const ArchcostImages& of) {
  return is_blocked(of) ? kBlocked : of.channel_stride == 1 ? kLast : kFirst;
}

long size(const ArchcostImages& of) {
  const long channels = is_blocked(of) ? round_up(of.channels, kLanes) : of.channels;
  return of.batch * channels * of.height * of.width;
}

long offset(const ArchcostImages& of, long n, long c, long i, long j) {
  const long channel = is_blocked(of) ? c / kLanes * of.block_stride + c % kLanes : c * of.channel_stride;
  return n * of.batch_stride + channel + i * of.row_stride + j * of.column_stride;
}

struct Layer {
  ArchcostConvolution of;
  long kernel_height, kernel_width;
  long groups;
  Window window;
  std::vector<float> input, weights, bias, output;
};

// In the first layouts, input and output each in its own.
Layer random_layer(long kernel_height, long kernel_width, bool depthwise = false, Layout until = kBlocked) {
  Layer layer;
    layer.window = {kernel_height, kernel_width, 1, 1, 1, 1};
  ArchcostConvolution& of = layer.of;
  layer.kernel_height = kernel_height, layer.kernel_width = kernel_width;
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
  layer.input = random_floats(size(of.input));
  layer.weights = random_floats(out * (depthwise ? 1 : in) * kernel_height * kernel_width);
  layer.bias = random_floats(out);
  layer.output.assign(size(of.output), NAN);
  return layer;
}

// The same layer with steps: fewer outputs, or a larger input.
void spread(Layer& layer, const Window& window) {
  ArchcostConvolution& of = layer.of;
  ArchcostImages &in = of.input, &out = of.output;
  layer.window = window;
  const long layout_in = layout_of(in), layout_out = layout_of(out);
  in = images(in.batch, in.channels, in.height + (window.height - 1) * (window.row_dilation - 1),
              in.width + (window.width - 1) * (window.column_dilation - 1), layout_in);
  out = images(out.batch, out.channels, (out.height - 1) / window.row_step + 1,
               (out.width - 1) / window.column_step + 1, layout_out);
  layer.input = random_floats(size(in));
  layer.output.assign(size(out), NAN);
}

// Before it is limited.
double expected(const Layer& layer, long n, long k, long i, long j) {
  const ArchcostConvolution& of = layer.of;
  const long kernels = of.input.channels / layer.groups;
  const long first = k / (of.output.channels / layer.groups) * kernels;
  double sum = layer.bias[k];
  for (long c = 0; c < kernels; ++c) {
    for (long a = 0; a < layer.kernel_height; ++a) {
      for (long b = 0; b < layer.kernel_width; ++b) {
        const long y = i * layer.window.row_step + a * layer.window.row_dilation - of.pad_top;
        const long x = j * layer.window.column_step + b * layer.window.column_dilation - of.pad_left;
        if (y < 0 || x < 0 || y >= of.input.height || x >= of.input.width) continue;
        const long weight = ((k * kernels + c) * layer.kernel_height + a) * layer.kernel_width + b;
        sum += double(layer.input[offset(of.input, n, first + c, y, x)]) * layer.weights[weight];
      }
    }
  }
  return sum;
}

// The largest error, relative to the largest output before clamping.
double error(const Layer& layer) {
  const ArchcostImages& output = layer.of.output;
  double worst = 0, largest = 1e-30;
  for (long n = 0; n < output.batch; ++n) {
    for (long k = 0; k < output.channels; ++k) {
      for (long i = 0; i < output.height; ++i) {
        for (long j = 0; j < output.width; ++j) {
          const double sum = expected(layer, n, k, i, j);
          const double right = std::clamp(sum, double(layer.of.low), double(layer.of.high));
          const double difference = std::fabs(layer.output[offset(output, n, k, i, j)] - right);
          worst = std::max(worst, std::isnan(difference) ? INFINITY : difference);
          largest = std::max(largest, std::fabs(sum));
        }
      }
    }
  }
  return worst / largest;
}

int failures = 0;

void report(const char* what, int index, double found, double allowed) {
  if (found <= allowed) return;
  std::printf("%s %d: error %.2g, allowed %.2g\n", what, index, found, allowed);
  ++failures;
}

// The same once more, with something added to the outputs.
template <class Run>
void check_added(const char* what, int index, Layer& layer, Run run) {
  layer.of.low = -INFINITY, layer.of.high = INFINITY;
  const std::vector<float> addend = random_floats(size(layer.of.output));
  run(nullptr);
  const std::vector<float> plain = layer.output;
  run(addend.data());
  double worst = 0;
  for (std::size_t k = 0; k < plain.size(); ++k) {
    worst = std::max(worst, double(std::fabs(layer.output[k] - (plain[k] + addend[k]))));
  }
  report(what, index, worst, 1e-5);
}

void check_max_pool(const Window& window) {
  const long pad_top = between(0, window.height / 2), pad_left = between(0, window.width / 2);
  const long layout = between(kLast, kBlocked);
  ArchcostConvolution of = {};
  of.output = images(between(1, 2), between(2, 40), between(1, 9), between(1, 9), layout);
  of.input = images(of.output.batch, of.output.channels, window.rows_under(of.output.height),
                    window.columns_under(of.output.width), layout);
  of.pad_top = pad_top, of.pad_left = pad_left, of.threads = between(1, 3);
  std::vector<float> input = random_floats(size(of.input)), output(size(of.output));
  if (between(0, 1)) input[between(0, long(input.size()) - 1)] = -INFINITY;
  max_pool(window, of, input.data(), output.data());
  double worst = 0;
  for (long n = 0; n < of.output.batch; ++n) {
    for (long c = 0; c < of.output.channels; ++c) {
      for (long i = 0; i < of.output.height; ++i) {
        for (long j = 0; j < of.output.width; ++j) {
          float most = -INFINITY;
          for (long tap = 0; tap < window.taps(); ++tap) {
            const long y = i * window.row_step + window.row_of(tap) - pad_top;
            const long x = j * window.column_step + window.column_of(tap) - pad_left;
            if (y < 0 || y >= of.input.height || x < 0 || x >= of.input.width) continue;
            most = std::max(most, input[offset(of.input, n, c, y, x)]);
          }
          worst = std::max(worst, output[offset(of.output, n, c, i, j)] == most ? 0.0 : 1.0);
        }
      }
    }
  }
  report("max pool", int(window.taps()), worst, 0);
}

void check_tiles(const char* what, int index, const TileTransform& tile, double allowed) {
  Layer layer = random_layer(tile.kernel_height, tile.kernel_width);
  const long out = layer.of.output.channels, in = layer.of.input.channels;
  std::vector<float> packed(packed_floats(tile, out, in));
  pack_weights(tile, out, in, layer.weights.data(), packed.data());
  const auto run = [&](const float* addend) {
    convolve_by_tiles(tile, layer.of, layer.input.data(), packed.data(), layer.bias.data(), layer.output.data(),
                      addend);
  };
  run(nullptr);
  report(what, index, error(layer), allowed);
  check_added(what, index, layer, run);
}

void check_depthwise(long height, long width) {
  Layer layer = random_layer(height, width, true);
  const long right = layer.of.output.width + width - 1 - layer.of.pad_left - layer.of.input.width;
  const DepthwiseKernel kernel = {
      height, width, depthwise_transform_size(width, layer.of.input.width, layer.of.pad_left, right)};
  std::vector<float> packed(depthwise_packed_floats(kernel, layer.of.input.channels));
  pack_depthwise(kernel, layer.of.input.channels, layer.weights.data(), packed.data());
  convolve_depthwise(kernel, layer.of, layer.input.data(), packed.data(), layer.bias.data(),
                     layer.output.data());
  report("depthwise", int(height), error(layer), 3e-6);
}

// The same layer with other channels, input and output in one layout.
void reshape(Layer& layer, const Window& window, long groups, long in, long out, Layout layout) {
  ArchcostConvolution& of = layer.of;
  layer.groups = groups;
  of.input = images(of.input.batch, groups * in, of.input.height, of.input.width, layout);
  of.output = images(of.output.batch, groups * out, of.output.height, of.output.width, layout);
  layer.weights = random_floats(groups * out * in * window.taps());
  layer.bias = random_floats(groups * out);
  spread(layer, window);
}

void check_depthwise_direct(const Window& window) {
  Layer layer = random_layer(window.height, window.width, true);
  reshape(layer, window, between(1, 40), 1, 1, between(0, 1) ? kLast : kBlocked);
  const long channels = layer.groups;
  std::vector<float> packed(depthwise_direct_packed_floats(window, channels));
  pack_depthwise_direct(window, channels, layer.weights.data(), packed.data());
  convolve_depthwise_direct(window, layer.of, layer.input.data(), packed.data(), layer.bias.data(), nullptr,
                            layer.output.data());
  report("direct depthwise", int(window.taps()), error(layer), 1e-5);
}

void check_grouped(const Window& window) {
  Layer layer = random_layer(window.height, window.width);
  const long in = between(1, 24), out = between(0, 2) ? in : between(1, 24);
  reshape(layer, window, between(1, 5), in, out, kBlocked);
  ArchcostConvolution& of = layer.of;
  const ArchcostGrouped grouped = {of.input,
                                   of.output,
                                   {window.height, window.width, window.row_step, window.column_step,
                                    window.row_dilation, window.column_dilation},
                                   of.pad_top,
                                   of.pad_left,
                                   layer.groups,
                                   {kClamp, of.low, of.high}};
  std::vector<float> packed(archcost_grouped_packed_floats(&grouped.window, of.output.channels, in));
  archcost_grouped_pack(&grouped.window, of.output.channels, in, layer.weights.data(), packed.data());
  float* const places[] = {layer.input.data(), packed.data(), layer.bias.data(), nullptr, layer.output.data()};
  archcost_step_grouped(&grouped, places, int(of.threads));
  report("grouped", int(in), error(layer), 1e-5);
}

void check_im2col(const Window& window) {
  Layer layer = random_layer(window.height, window.width, false, kLast);
  spread(layer, window);
  const long out = layer.of.output.channels, in = layer.of.input.channels;
  std::vector<float> packed(im2col_packed_floats(window, out, in));
  pack_im2col(window, out, in, layer.weights.data(), packed.data());
  const auto run = [&](const float* addend) {
    convolve_im2col(window, layer.of, layer.input.data(), packed.data(), layer.bias.data(), layer.output.data(),
                    addend);
  };
  run(nullptr);
  report("im2col", int(window.taps()), error(layer), 1e-5);
  check_added("im2col, added", int(window.taps()), layer, run);
}

}  // namespace

int main() {
  for (int round = 0; round < 2; ++round) {
    for (int index = 0; winograd_tile(index); ++index) {
      check_tiles("winograd", index, *winograd_tile(index), 3e-4);
    }
    for (int taps = 1; taps < 60; taps += 7) {
      const int size = RealFft::at_least(taps + between(0, 40));
      check_tiles("fourier", size, *fft_tile(size, taps), 3e-6);
      check_depthwise(between(1, 9), taps);
    }
    for (int index = 0; index < 60; ++index) {
      const long taps = index % 3 ? between(1, 6) : 1;
      check_im2col({index % 4 ? taps : 1, taps, between(1, 3), between(1, 3), between(1, 3), between(1, 2)});
      const Window square = {taps, taps, between(1, 3), between(1, 3), between(1, 2), between(1, 2)};
      check_depthwise_direct(square);
      check_grouped(square);
      check_max_pool({taps, between(1, 3), between(1, 3), between(1, 3), between(1, 2), between(1, 2)});
    }
  }
  release_scratch();
  std::printf(failures ? "%d failures\n" : "all right\n", failures);
  return failures != 0;
}
