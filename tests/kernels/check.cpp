// The kernels against their definitions, built with sanitizers. Exits with 1 if a result is wrong.
#include "checking.h"
#include "depthwise.h"
#include "depthwise_direct.h"
#include "fft.h"
#include "fft_tile.h"
#include "im2col.h"
#include "long_row.h"
#include "scratch.h"
#include "tiled_convolution.h"
#include "winograd.h"

namespace {

using namespace checking;

// Once as it is, and once with something added to the outputs.
template <class Run>
void check_layer(const char* what, long index, Layer& layer, double allowed, const Run& run) {
  run(nullptr);
  report(what, index, error(layer), allowed);
  const Floats addend = random_images(layer.of.output);
  run(addend.data());
  Plain sums = expected(layer, layer.bias);
  const double scale = sums.largest();
  const Plain added = plain_of(layer.of.output, addend);
  sums.each([&](long n, long c, long i, long j, double& value) { value += added.at(n, c, i, j); });
  report(what, -index, error(activated({kClamp, layer.of.low, layer.of.high}, sums), layer.of.output, layer.output, scale),
         allowed);
}

void check_tiles(const char* what, int index, const TileTransform& tile, double allowed) {
  Layer layer = random_layer(tile.kernel_height, tile.kernel_width);
  const long out = layer.of.output.channels, in = layer.of.input.channels;
  Floats packed(packed_floats(tile, out, in));
  pack_weights(tile, out, in, layer.weights.data(), packed.data());
  check_layer(what, index, layer, allowed, [&](const float* addend) {
    convolve_by_tiles(tile, layer.of, layer.input.data(), packed.data(), layer.bias.data(), layer.output.data(),
                      addend);
  });
}

void check_depthwise(long height, long width) {
  Layer layer = random_layer(height, width, true);
  const long right = layer.of.output.width + width - 1 - layer.of.pad_left - layer.of.input.width;
  const DepthwiseKernel kernel = {
      height, width, depthwise_transform_size(width, layer.of.input.width, layer.of.pad_left, right)};
  Floats packed(depthwise_packed_floats(kernel, layer.of.input.channels));
  pack_depthwise(kernel, layer.of.input.channels, layer.weights.data(), packed.data());
  check_layer("depthwise", height, layer, 3e-6, [&](const float* addend) {
    convolve_depthwise(kernel, layer.of, layer.input.data(), packed.data(), layer.bias.data(),
                       layer.output.data(), addend);
  });
}

void check_depthwise_direct(const Window& window) {
  Layer layer = random_layer(window.height, window.width, true);
  const Layout layout = between(0, 1) ? kLast : kBlocked;
  reshape(layer, window, between(layout == kLast ? 2 : 1, 40), 1, 1, layout, layout);
  Floats packed(depthwise_direct_packed_floats(window, layer.groups));
  pack_depthwise_direct(window, layer.groups, layer.weights.data(), packed.data());
  check_layer("direct depthwise", window.taps(), layer, 1e-5, [&](const float* addend) {
    convolve_depthwise_direct(window, layer.of, layer.input.data(), packed.data(), layer.bias.data(), addend,
                              layer.output.data());
  });
}

void check_im2col(const Window& window) {
  Layer layer = random_layer(window.height, window.width, false, kLast);
  spread(layer, window);
  const long out = layer.of.output.channels, in = layer.of.input.channels;
  Floats packed(im2col_packed_floats(window, out, in));
  pack_im2col(window, out, in, layer.weights.data(), packed.data());
  check_layer("im2col", window.taps(), layer, 1e-5, [&](const float* addend) {
    convolve_im2col(window, layer.of, layer.input.data(), packed.data(), layer.bias.data(), layer.output.data(),
                    addend);
  });
}

void check_long_row(long taps, long step) {
  Layer layer = random_layer(1, taps, false, kFirst);
  layer.of.input.height = layer.of.output.height = 1;
  reshape(layer, layer.window, between(1, 3), between(1, 9), between(1, 20), kFirst, kFirst);
  const long in = layer.of.input.channels / layer.groups, out = layer.of.output.channels;
  Floats packed(long_row_packed_floats(taps, step, out, in));
  pack_long_row(taps, step, out, in, layer.weights.data(), packed.data());
  convolve_long_row(taps, step, layer.groups, layer.of, layer.input.data(), packed.data(), layer.bias.data(),
                    layer.output.data());
  report("long row", taps, error(layer), 3e-6);
}

}  // namespace

int main() {
  for (int index = 0; winograd_tile(index); ++index) {
    check_tiles("winograd", index, *winograd_tile(index), 3e-4);
  }
  for (int taps = 1; taps < 60; taps += 7) {
    const int size = RealFft::at_least(taps + between(0, 40));
    check_tiles("fourier", size, *fft_tile(size, taps, between(0, 1)), 3e-6);
    check_depthwise(between(1, 9), taps);
  }
  for (long taps : {20, 61}) check_long_row(taps, 32);
  for (int index = 0; index < 60; ++index) {
    const long taps = index % 3 ? between(1, 6) : 1;
    check_im2col({index % 4 ? taps : 1, taps, between(1, 3), between(1, 3), between(1, 3), between(1, 2)});
    check_depthwise_direct({taps, taps, between(1, 3), between(1, 3), between(1, 2), between(1, 2)});
  }
  check_convolution_steps();
  check_other_steps();
  check_threads();
  check_watch();
  release_scratch();
  std::printf(failures ? "%d failures\n" : "all right\n", failures);
  return failures != 0;
}
