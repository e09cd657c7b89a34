// The steps of convolutions against their definition.
#include "checking.h"
#include "depthwise.h"
#include "depthwise_direct.h"
#include "direct.h"
#include "fft.h"
#include "fft_tile.h"
#include "find_tile.h"
#include "grouped.h"
#include "inverted_residual.h"
#include "tiled_convolution.h"
#include "winograd.h"

extern "C" {

std::int64_t archcost_direct_packed_floats(const std::int64_t (&window)[6], std::int64_t out, std::int64_t in);
void archcost_direct_pack(const std::int64_t (&window)[6], std::int64_t out, std::int64_t in, std::int64_t blocked,
                          const float* weights, float* packed);
std::int64_t archcost_inverted_residual_packed_floats(std::int64_t taps, std::int64_t channels);
void archcost_inverted_residual_pack(std::int64_t taps, std::int64_t channels, const float* weights, float* packed);

void archcost_step_direct(const void* arguments, float* const* places, int threads);
void archcost_step_tiles(const void* arguments, float* const* places, int threads);
void archcost_step_depthwise(const void* arguments, float* const* places, int threads);
void archcost_step_fft_depthwise(const void* arguments, float* const* places, int threads);
void archcost_step_inverted_residual(const void* arguments, float* const* places, int threads);

}  // extern "C"

namespace checking {
namespace {

ArchcostWindow outside(const Window& of) {
  return {of.height, of.width, of.row_step, of.column_step, of.row_dilation, of.column_dilation};
}

// A bias, an addend and an activation, the first two of which may be absent.
struct Behind {
  explicit Behind(const Layer& layer)
      : activation(random_activation()),
        bias(between(0, 3) ? layer.bias : Floats{}),
        addend(between(0, 1) ? random_images(layer.of.output) : Floats{}) {}

  static float* place(Floats& floats) { return floats.empty() ? nullptr : floats.data(); }

  void check(const char* what, long index, const Layer& layer, double allowed) const {
    Plain sums = expected(layer, bias);
    if (!addend.empty()) {
      const Plain added = plain_of(layer.of.output, addend);
      sums.each([&](long n, long c, long i, long j, double& value) { value += added.at(n, c, i, j); });
    }
    report(what, index, error(activated(activation, sums), layer.of.output, layer.output, sums.largest()), allowed);
  }

  const ArchcostActivation activation;
  Floats bias, addend;
};

// The inputs as the window sees them.
void prepare(Layer& layer, const Floats& scale, const Floats& shift, float low, float high, const Floats& gate,
             long gate_stride) {
  const ArchcostImages& of = layer.of.input;
  plain_of(of, layer.input).each([&](long n, long c, long i, long j, double) {
    float& value = layer.input[offset(of, n, c, i, j)];
    if (!scale.empty()) value = std::clamp(value * scale[c] + shift[c], low, high);
    if (!gate.empty()) value *= gate[n * gate_stride + c];
  });
}

Floats pack_direct(const Layer& layer, bool blocked) {
  const Window& of = layer.window;
  const std::int64_t window[6] = {of.height,      of.width,        of.row_step,
                                  of.column_step, of.row_dilation, of.column_dilation};
  const long out = layer.of.output.channels, in = layer.of.input.channels;
  Floats packed(archcost_direct_packed_floats(window, out, in));
  archcost_direct_pack(window, out, in, blocked, layer.weights.data(), packed.data());
  return packed;
}

void check_direct(const Window& window, bool blocked) {
  Layer layer = random_layer(window.height, window.width);
  reshape(layer, window, 1, between(1, blocked ? 40 : 4), between(1, 75), blocked ? kBlocked : kFirst, kBlocked);
  if (between(0, 1)) layer.of.pad_top = layer.of.pad_left = 0;
  const ArchcostImages &in = layer.of.input, &out = layer.of.output;
  Behind behind(layer);
  Floats packed = pack_direct(layer, blocked), bias = whole_blocks(behind.bias);
  const bool scales = between(0, 2) == 0, gates = between(0, 2) == 0;
  const long row = round_up(in.channels, kLanes);
  Floats scale = scales ? whole_blocks(random_floats(in.channels)) : Floats{};
  Floats shift = scales ? whole_blocks(random_floats(in.channels)) : Floats{};
  Floats gate = gates ? random_floats(in.batch * row) : Floats{};
  const ArchcostDirect of = {in,
                             out,
                             out,
                             window.height,
                             window.width,
                             window.row_step,
                             window.column_step,
                             window.row_dilation,
                             window.column_dilation,
                             layer.of.pad_top,
                             layer.of.pad_left,
                             row,
                             behind.activation,
                             0.0f,
                             1.0f};
  float* const places[] = {layer.input.data(),           packed.data(),        Behind::place(bias),
                           layer.output.data(),          Behind::place(behind.addend),
                           Behind::place(scale),         Behind::place(shift), Behind::place(gate),
                           nullptr};
  archcost_step_direct(&of, places, int(layer.of.threads));
  prepare(layer, scale, shift, 0.0f, 1.0f, gate, row);
  behind.check(blocked ? "direct" : "direct, NCHW", window.taps(), layer, 1e-5);
}

// Channels from here and there.
void check_direct_offsets() {
  Layer layer = random_layer(1, 1);
  reshape(layer, layer.window, 1, between(1, 40), between(1, 40), kBlocked, kBlocked);
  const ArchcostImages &in = layer.of.input, &out = layer.of.output;
  Behind behind(layer);
  Floats packed = pack_direct(layer, true), bias = whole_blocks(behind.bias);
  std::vector<std::int64_t> offsets(in.channels);
  for (long c = 0; c < in.channels; ++c) offsets[c] = offset(in, 0, (c * 7 + 3) % in.channels, 0, 0);
  const ArchcostDirect of = {in, out, out, 1, 1, 1, 1, 1, 1, 0, 0, 0, behind.activation, 0, 0};
  float* const places[] = {layer.input.data(),           packed.data(), Behind::place(bias), layer.output.data(),
                           Behind::place(behind.addend), nullptr,       nullptr,             nullptr,
                           reinterpret_cast<float*>(offsets.data())};
  archcost_step_direct(&of, places, int(layer.of.threads));
  const Floats before = layer.input;
  plain_of(in, before).each([&](long n, long c, long i, long j, double) {
    layer.input[offset(in, n, c, i, j)] = before[offset(in, n, (c * 7 + 3) % in.channels, i, j)];
  });
  behind.check("direct, offsets", in.channels, layer, 1e-5);
}

// Steps whose places are the same.
template <class Arguments, class Step>
void check_step(const char* what, long index, Layer& layer, Floats& packed, double allowed, Step step,
                const Arguments& arguments_with) {
  Behind behind(layer);
  const auto of = arguments_with(behind.activation);
  float* const places[] = {layer.input.data(), packed.data(), Behind::place(behind.bias),
                           Behind::place(behind.addend), layer.output.data()};
  step(&of, places, int(layer.of.threads));
  behind.check(what, index, layer, allowed);
}

void check_grouped(const Window& window) {
  Layer layer = random_layer(window.height, window.width);
  const long in = between(1, 24), out = between(0, 2) ? in : between(1, 24);
  reshape(layer, window, between(1, 5), in, out, kBlocked, kBlocked);
  const ArchcostConvolution& of = layer.of;
  const ArchcostWindow its = outside(window);
  Floats packed(archcost_grouped_packed_floats(&its, of.output.channels, in));
  archcost_grouped_pack(&its, of.output.channels, in, layer.weights.data(), packed.data());
  check_step("grouped", in, layer, packed, 1e-5, archcost_step_grouped, [&](const ArchcostActivation& activation) {
    return ArchcostGrouped{of.input, of.output, its, of.pad_top, of.pad_left, layer.groups, activation};
  });
}

void check_depthwise(const Window& window) {
  Layer layer = random_layer(window.height, window.width, true);
  const Layout layout = between(0, 1) ? kLast : kBlocked;
  reshape(layer, window, between(2, 40), 1, 1, layout, layout);
  const ArchcostConvolution& of = layer.of;
  Floats packed(depthwise_direct_packed_floats(window, layer.groups));
  pack_depthwise_direct(window, layer.groups, layer.weights.data(), packed.data());
  check_step("depthwise step", window.taps(), layer, packed, 1e-5, archcost_step_depthwise,
             [&](const ArchcostActivation& activation) {
               return ArchcostDepthwise{of.input, of.output, outside(window), of.pad_top, of.pad_left, activation};
             });
}

void check_fft_depthwise(long height, long width) {
  Layer layer = random_layer(height, width, true);
  const ArchcostConvolution& of = layer.of;
  const long right = of.output.width + width - 1 - of.pad_left - of.input.width;
  const DepthwiseKernel kernel = {height, width,
                                  depthwise_transform_size(width, of.input.width, of.pad_left, right)};
  Floats packed(depthwise_packed_floats(kernel, layer.groups));
  pack_depthwise(kernel, layer.groups, layer.weights.data(), packed.data());
  check_step("Fourier depthwise step", width, layer, packed, 3e-6, archcost_step_fft_depthwise,
             [&](const ArchcostActivation& activation) {
               return ArchcostFftDepthwise{height, width, kernel.transform_size, of, activation};
             });
}

void check_tiles(long family, long first, long second, double allowed) {
  const TileTransform& tile = *find_tile(family, first, second);
  Layer layer = random_layer(tile.kernel_height, tile.kernel_width);
  const long out = layer.of.output.channels, in = layer.of.input.channels;
  Floats packed(packed_floats(tile, out, in));
  pack_weights(tile, out, in, layer.weights.data(), packed.data());
  check_step("tiles step", first, layer, packed, allowed, archcost_step_tiles,
             [&](const ArchcostActivation& activation) {
               return ArchcostTiles{family, first, second, layer.of, activation};
             });
}

// `kinds`: 0 for all three convolutions, 1 without expansion, 2 without projection, with sums.
void check_inverted_residual(long taps, long step, int kind) {
  const bool expands = kind != 1, projects = kind != 2;
  const long batch = between(1, 2), height = between(1, 12), width = between(1, 23), pad = taps / 2;
  const long channels = between(1, 50), ins = expands ? between(1, 20) : channels;
  const long outs = projects ? between(1, 40) : channels;
  const ArchcostImages in = images(batch, ins, height, width, kBlocked);
  const ArchcostImages out = images(batch, outs, (height - 1) / step + 1, (width - 1) / step + 1, kBlocked);
  const long blocks = divide_up(channels, kLanes);
  const ArchcostInvertedResidual of = {in,  out, out,           channels, taps, step, pad, pad, blocks * kLanes,
                                       random_activation(), random_activation(), random_activation()};
  Floats input = random_images(in), output(size(out), NAN);
  Floats addend = projects && between(0, 1) ? random_images(out) : Floats{}, sums(batch * blocks * kLanes);

  Layer expansion = {}, projection = {};
  expansion.of = {in, images(batch, channels, height, width, kBlocked), 0, 0, 1, 0, 0, 0};
  projection.of = {images(batch, channels, out.height, out.width, kBlocked), out, 0, 0, 1, 0, 0, 0};
  for (Layer* layer : {&expansion, &projection}) layer->groups = 1, layer->window = {1, 1, 1, 1, 1, 1}, fill(*layer);
  const Floats filters = random_floats(channels * taps * taps), filter_bias = random_floats(channels);
  Floats packed(archcost_inverted_residual_packed_floats(taps, channels));
  archcost_inverted_residual_pack(taps, channels, filters.data(), packed.data());
  Floats expand = pack_direct(expansion, true), project = pack_direct(projection, true);
  Floats biases[] = {whole_blocks(expansion.bias), whole_blocks(filter_bias), whole_blocks(projection.bias)};
  float* const places[] = {input.data(),
                           expands ? expand.data() : nullptr,
                           expands ? biases[0].data() : nullptr,
                           packed.data(),
                           biases[1].data(),
                           projects ? project.data() : nullptr,
                           projects ? biases[2].data() : nullptr,
                           output.data(),
                           Behind::place(addend),
                           projects ? nullptr : sums.data()};
  archcost_step_inverted_residual(&of, places, int(between(1, 3)));

  Plain x = plain_of(in, input);
  const Window one = {1, 1, 1, 1, 1, 1};
  if (expands) {
    x = activated(of.expansion, convolved(x, expansion.weights, expansion.bias, one, 0, 0, 1,
                                          Plain(batch, channels, height, width)));
  }
  x = activated(of.depthwise, convolved(x, filters, filter_bias, {taps, taps, step, step, 1, 1}, pad, pad, channels,
                                        Plain(batch, channels, out.height, out.width)));
  if (!projects) {
    Plain all(batch, channels, 1, 1);
    x.each([&](long n, long c, long, long, double value) { all.at(n, c, 0, 0) += value; });
    report("sums of an inverted residual", taps, error(all, images(batch, channels, 1, 1, kBlocked), sums), 3e-5);
    return report("inverted residual", taps, error(x, out, output), 3e-5);
  }
  x = convolved(x, projection.weights, projection.bias, one, 0, 0, 1, Plain(batch, outs, out.height, out.width));
  if (!addend.empty()) {
    const Plain added = plain_of(out, addend);
    x.each([&](long n, long c, long i, long j, double& value) { value += added.at(n, c, i, j); });
  }
  report("inverted residual", taps, error(activated(of.projection, x), out, output, x.largest()), 3e-5);
}

}  // namespace

void check_convolution_steps() {
  for (int index = 0; index < 40; ++index) {
    const long taps = index % 3 ? between(1, 6) : 1;
    const Window window = {index % 4 ? taps : 1, taps, between(1, 3), between(1, 3), between(1, 2), between(1, 2)};
    check_direct(window, index % 4 != 3);
    check_direct_offsets();
    check_grouped(window);
    check_depthwise(window);
  }
  for (int index = 0; winograd_tile(index); index += 2) check_tiles(kWinograd, index, 0, 3e-4);
  for (long taps : {3, 11}) {
    const Family family = between(0, 1) ? kFourier : kFourierOfPairs;
    check_tiles(family, RealFft::at_least(taps + between(0, 20)), taps, 3e-6);
    check_fft_depthwise(between(1, 9), taps);
  }
  for (int kind = 0; kind < 3; ++kind) {
    for (long taps : {3, 5, 7}) {
      for (long step : {1, 2}) check_inverted_residual(taps, step, kind);
    }
  }
}

}  // namespace checking
