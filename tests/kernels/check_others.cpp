// The steps that are no convolutions against their definitions.
#include "attention.h"
#include "checking.h"
#include "elementwise.h"
#include "interpolate.h"
#include "layout.h"
#include "normalise.h"
#include "pool.h"
#include "squeeze.h"

extern "C" {

std::int64_t archcost_squeeze_packed_floats(std::int64_t channels, std::int64_t hidden);
void archcost_squeeze_pack(std::int64_t channels, std::int64_t hidden, const float* first, const float* first_bias,
                           const float* second, const float* second_bias, float* packed);

#define ARCHCOST_STEP(name) void archcost_step_##name(const void* arguments, float* const* places, int threads);
ARCHCOST_STEP(elementwise)
ARCHCOST_STEP(affine)
ARCHCOST_STEP(convert)
ARCHCOST_STEP(gather)
ARCHCOST_STEP(max_pool)
ARCHCOST_STEP(avg_pool)
ARCHCOST_STEP(global_pool)
ARCHCOST_STEP(squeeze)
ARCHCOST_STEP(linear)
ARCHCOST_STEP(matmul)
ARCHCOST_STEP(attention)
ARCHCOST_STEP(layer_norm)
ARCHCOST_STEP(group_norm)
ARCHCOST_STEP(softmax)
ARCHCOST_STEP(interpolate)
#undef ARCHCOST_STEP

}  // extern "C"

namespace checking {
namespace {

constexpr double kAllowed = 2e-5;

int threads() { return int(between(1, 2)); }

// [rows][length], of which the first ones of each row are looked at.
struct Matrix {
  Matrix(long rows, long length, long stride) : rows(rows), length(length), stride(stride), data(rows * stride, NAN) {
    const Floats values = random_floats(rows * stride);
    for (long i = 0; i < rows; ++i) std::copy_n(values.data() + i * stride, length, data.data() + i * stride);
  }
  double at(long i, long j) const { return data[i * stride + j]; }
  ArchcostImages images() const { return {1, 1, rows, length, rows * stride, 2, stride, 1, 0}; }
  float* place() { return data.data(); }

  long rows, length, stride;
  Floats data;
};

// Each kind of activation, at numbers near zero and far from it.
void check_activations(std::int64_t kind) {
  const ArchcostActivation activation = {kind, kind == kClamp ? -0.5f : 0.25f, 1.5f};
  const long count = between(900, 1100);
  Floats input = random_floats(count), output(count, NAN);
  for (long i = 0; i < count; i += 3) input[i] *= 20;
  const ArchcostElementwise of = {activation, kNone, kRun, {1, 1, count}, {0, 0}, {0, 0}, {0, 0}};
  float* const places[] = {input.data(), nullptr, output.data()};
  archcost_step_elementwise(&of, places, threads());
  double worst = 0;
  for (long i = 0; i < count; ++i) {
    const double right = activated(activation, double(input[i]));
    const double off = std::fabs(output[i] - right) / std::max(1.0, std::fabs(right));
    worst = std::max(worst, std::isnan(off) ? INFINITY : off);
  }
  report("activation", kind, worst, 2e-6);
  const float special[] = {NAN, INFINITY, -INFINITY, 1e30f, -1e30f};
  for (long i = 0; i < 5; ++i) {
    input.assign(count, special[i]);
    archcost_step_elementwise(&of, places, 1);
    const bool kept = std::isnan(special[i]) == std::isnan(output[0]) && std::isnan(output[0]) == std::isnan(output[count - 1]);
    // -infinity times zero is no number, as in PyTorch.
    if (special[i] == -INFINITY && std::isnan(output[0])) continue;
    report("activation of what is huge or no number", kind, kept ? 0 : 1, 0);
  }
}

void check_elementwise(long operation) {
  const ArchcostImages in = images(2, between(1, 40), between(1, 9), between(1, 9), kBlocked);
  const std::int64_t second = between(kRun, kFloat);
  const long blocks = divide_up(in.channels, kLanes);
  Floats a = random_images(in), b = random_images(in), out(size(in), NAN);
  ArchcostRun of_b = {in.batch_stride, in.block_stride};
  if (second == kVector) b = random_floats(2 * blocks * kLanes), of_b = {blocks * kLanes, kLanes};
  if (second == kFloat) b = random_floats(1), of_b = {0, 0};
  if (operation == kDivide || operation == kDivideInto) {
    for (Floats* one : {&a, &b}) {
      for (float& value : *one) value = std::copysign(std::fabs(value) + 1, value);
    }
  }
  const ArchcostRun run = {in.batch_stride, in.block_stride};
  const ArchcostElementwise of = {random_activation(), operation, second, {2, blocks, in.block_stride}, run, of_b, run};
  float* const places[] = {a.data(), b.data(), out.data()};
  archcost_step_elementwise(&of, places, threads());
  Plain right = plain_of(in, a);
  right.each([&](long n, long c, long i, long j, double& x) {
    const double y = second == kRun ? b[offset(in, n, c, i, j)] : second == kVector ? b[n * blocks * kLanes + c] : b[0];
    switch (operation) {
      case kAdd: x = x + y; break;
      case kSubtract: x = x - y; break;
      case kMultiply: x = x * y; break;
      case kDivide: x = x / y; break;
      case kMaximum: x = std::max(x, y); break;
      case kMinimum: x = std::min(x, y); break;
      case kSubtractFrom: x = y - x; break;
      case kDivideInto: x = y / x; break;
    }
  });
  report("elementwise", operation, error(activated(of.activation, right), in, out, right.largest()), kAllowed);
}

// Of a row in any other layout: scale and shift a float a channel.
void check_affine(bool blocked) {
  const ArchcostImages in = images(2, between(1, 40), between(1, 9), between(1, 9), blocked ? kBlocked : kFirst);
  const long blocks = blocked ? divide_up(in.channels, kLanes) : in.channels, plane = in.height * in.width;
  const ArchcostRun run = {in.batch_stride, blocked ? in.block_stride : plane};
  Floats a = random_images(in), out(size(in), NAN);
  Floats scale = random_floats(in.channels), shift = random_floats(in.channels);
  if (blocked) scale = whole_blocks(scale), shift = whole_blocks(shift);
  const ArchcostAffine of = {random_activation(), blocked ? kVector : kFloat,
                             {2, blocks, blocked ? in.block_stride : plane}, run, {0, blocked ? kLanes : 1}, run};
  float* const places[] = {a.data(), scale.data(), shift.data(), out.data()};
  archcost_step_affine(&of, places, threads());
  Plain right = plain_of(in, a);
  right.each([&](long, long c, long, long, double& x) { x = x * scale[c] + shift[c]; });
  report("affine", blocked, error(activated(of.activation, right), in, out, right.largest()), kAllowed);
}

void check_convert(long from, long to) {
  const long channels = between(1, 40), height = between(1, 9), width = between(1, 70);
  const ArchcostConversion of = {images(2, channels, height, width, from), images(2, channels, height, width, to)};
  Floats input = random_images(of.input), output(size(of.output), NAN);
  float* const places[] = {input.data(), output.data()};
  archcost_step_convert(&of, places, threads());
  report("convert", 10 * from + to, error(plain_of(of.input, input), of.output, output), 0);
  if (to != kBlocked) return;
  ArchcostImages all = of.output;
  all.channels = round_up(channels, kLanes);
  const Plain with_padding = plain_of(all, output);
  double worst = 0;
  with_padding.each([&](long, long c, long, long, double value) {
    if (c >= channels && value != 0) worst = 1;
  });
  report("convert, padding", from, worst, 0);
}

void check_gather(long sources) {
  const long height = between(1, 5), width = between(1, 9), channels = between(1, 70);
  std::vector<ArchcostImages> in;
  std::vector<Floats> inputs;
  std::vector<float*> places;
  const ArchcostImages out = images(2, channels, height, width, kBlocked);
  struct {
    ArchcostGather of;
    std::int64_t table[70];
  } all = {{2, channels, height * width, sources, out.batch_stride, out.block_stride, {}, {}}, {}};
  for (long k = 0; k < sources; ++k) {
    in.push_back(images(2, between(1, 40), height, width, kBlocked));
    inputs.push_back(random_images(in[k]));
    all.of.source_batch_stride[k] = in[k].batch_stride, all.of.source_block_stride[k] = in[k].block_stride;
  }
  for (long c = 0; c < channels; ++c) {
    const long source = between(0, sources - 1);
    all.table[c] = source << 32 | between(0, in[source].channels - 1);
  }
  for (Floats& input : inputs) places.push_back(input.data());
  Floats output(size(out), NAN);
  places.push_back(output.data());
  archcost_step_gather(&all, places.data(), threads());
  Plain right(2, channels, height, width);
  right.each([&](long n, long c, long i, long j, double& value) {
    const long source = all.table[c] >> 32;
    value = inputs[source][offset(in[source], n, all.table[c] & 0xffffffff, i, j)];
  });
  report("gather", sources, error(right, out, output), 0);
}

void check_pool(bool mean) {
  const long taps = between(1, 4);
  const ArchcostWindow window = {taps, between(1, 4), between(1, 3), between(1, 3), mean ? 1 : between(1, 2),
                                 mean ? 1 : between(1, 2)};
  const Window its = window_of(window);
  const long layout = between(kLast, kBlocked), top = between(0, taps / 2), left = between(0, window.width / 2);
  const ArchcostImages out = images(2, between(2, 40), between(1, 9), between(1, 9), layout);
  const long height = std::max(1L, its.rows_under(out.height) - 2 * top);
  const long width = std::max(1L, its.columns_under(out.width) - 2 * left);
  const ArchcostImages in = images(2, out.channels, height, width, layout);
  const ArchcostPool of = {in, out, window, top, left, between(0, 1), 0};
  Floats input = random_images(in), output(size(out), NAN);
  if (!mean) input[offset(in, 1, 0, height / 2, width / 2)] = NAN, input[0] = -INFINITY;
  float* const places[] = {input.data(), output.data()};
  (mean ? archcost_step_avg_pool : archcost_step_max_pool)(&of, places, threads());
  double worst = 0;
  Plain(2, out.channels, out.height, out.width).each([&](long n, long c, long i, long j, double&) {
    double sum = 0, most = -INFINITY;
    long inside = 0, counted = 0;
    for (long tap = 0; tap < its.taps(); ++tap) {
      const long y = i * its.row_step + its.row_of(tap) - top, x = j * its.column_step + its.column_of(tap) - left;
      counted += y < in.height + top && x < in.width + left;
      if (y < 0 || y >= in.height || x < 0 || x >= in.width) continue;
      const double value = input[offset(in, n, c, y, x)];
      sum += value, ++inside;
      most = std::isnan(value) || std::isnan(most) ? NAN : std::max(most, value);
    }
    const double right = mean ? sum / double(of.count_include_pad ? counted : inside) : most;
    const double found = output[offset(out, n, c, i, j)];
    if (found == right || (std::isnan(found) && std::isnan(right))) return;
    const double off = std::fabs(found - right);
    worst = std::max(worst, std::isnan(off) ? INFINITY : off);
  });
  report(mean ? "mean pool" : "max pool", its.taps(), worst, mean ? 1e-5 : 0);
}

ArchcostMap map_of(const ArchcostImages& of) {
  const bool blocked = is_blocked(of);
  return {of.batch,        of.channels,      of.height * of.width, of.batch_stride, blocked ? of.block_stride : kLanes,
          blocked ? kLanes : of.channels};
}

// Channels in whole vectors as an image of one pixel.
ArchcostImages gate_of(long batch, long channels) { return images(batch, channels, 1, 1, kBlocked); }

Plain means(const Plain& x) {
  Plain sums(x.batch, x.channels, 1, 1);
  x.each([&](long n, long c, long, long, double value) { sums.at(n, c, 0, 0) += value / double(x.height * x.width); });
  return sums;
}

void check_squeeze(long layout) {
  const long channels = between(2, 60), hidden = between(1, 20), height = between(1, 9), width = between(1, 9);
  const ArchcostImages in = images(2, channels, height, width, layout), out = gate_of(2, channels);
  Floats input = random_images(in), gate(size(out), NAN), pooled(size(out), NAN);
  const float scale = 1.0f / float(height * width);
  const ArchcostGlobalPool pool = {map_of(in), random_activation(), out.batch_stride, scale};
  float* const pool_places[] = {input.data(), pooled.data()};
  archcost_step_global_pool(&pool, pool_places, threads());
  const Plain mean = means(plain_of(in, input));
  report("global pool", layout, error(activated(pool.activation, mean), out, pooled, 1), kAllowed);

  const Window one = {1, 1, 1, 1, 1, 1};
  const ArchcostSqueeze of = {map_of(in), {kClamp, 0, INFINITY}, {kSigmoid, 0, 0}, hidden, out.batch_stride, scale};
  const Floats first = random_floats(hidden * channels), first_bias = random_floats(hidden);
  const Floats second = random_floats(channels * hidden), second_bias = random_floats(channels);
  Floats packed(archcost_squeeze_packed_floats(channels, hidden));
  archcost_squeeze_pack(channels, hidden, first.data(), first_bias.data(), second.data(), second_bias.data(),
                        packed.data());
  float* const places[] = {input.data(), packed.data(), gate.data()};
  archcost_step_squeeze(&of, places, threads());
  const Plain between = activated(of.first, convolved(mean, first, first_bias, one, 0, 0, 1, Plain(2, hidden, 1, 1)));
  const Plain right = convolved(between, second, second_bias, one, 0, 0, 1, Plain(2, channels, 1, 1));
  report("squeeze", layout, error(activated(of.second, right), out, gate), kAllowed);
}

void check_linear() {
  const long count = between(1, 40), in = between(1, 60), out = between(1, 70);
  Matrix x(count, in, in + between(0, 3)), weights(out, in, in + between(0, 3)), y(count, out, out + between(0, 3));
  Matrix addend(count, out, out + between(0, 3));
  const Floats bias = random_floats(out);
  const bool adds = between(0, 1), has_bias = between(0, 1);
  Floats packed(linear_packed_floats(out, in));
  pack_linear(out, in, weights.place(), weights.stride, false, has_bias ? bias.data() : nullptr, packed.data());
  const ArchcostLinear of = {random_activation(), count, in, out, x.stride, y.stride, addend.stride};
  float* const places[] = {x.place(), packed.data(), adds ? addend.place() : nullptr, y.place()};
  archcost_step_linear(&of, places, threads());
  Plain right(1, 1, count, out);
  right.each([&](long, long, long i, long k, double& sum) {
    sum = (has_bias ? bias[k] : 0.0) + (adds ? addend.at(i, k) : 0.0);
    for (long c = 0; c < in; ++c) sum += x.at(i, c) * weights.at(k, c);
  });
  report("linear", count, error(activated(of.activation, right), y.images(), y.data, right.largest()), kAllowed);
}

void check_matmul(bool transposed) {
  const long heads = between(1, 3), count = between(1, 20), depth = between(1, 30), columns = between(1, 40);
  Matrix a(2 * heads * count, depth, depth), c(2 * heads * count, columns, columns);
  Matrix b(2 * heads * (transposed ? columns : depth), transposed ? depth : columns, transposed ? depth : columns);
  const long of_b = depth * columns, of_c = count * columns;
  const ArchcostMatmul of = {random_activation(),   2,     heads,   count,        depth, columns, transposed,
                             heads * count * depth, count * depth, depth, heads * of_b, of_b,  b.stride,
                             heads * of_c,          of_c,  columns};
  float* const places[] = {a.place(), b.place(), c.place()};
  archcost_step_matmul(&of, places, threads());
  Plain right(1, 2 * heads, count, columns);
  right.each([&](long, long m, long i, long j, double& sum) {
    for (long k = 0; k < depth; ++k) {
      sum += a.at(m * count + i, k) * (transposed ? b.at(m * columns + j, k) : b.at(m * depth + k, j));
    }
  });
  const ArchcostImages out = images(1, 2 * heads, count, columns, kFirst);
  report("matmul", transposed, error(activated(of.activation, right), out, c.data, right.largest()), kAllowed);
}

void check_attention() {
  const long heads = between(1, 2), queries = between(1, 20), keys = between(1, 40), depth = between(1, 20);
  const long values = between(1, 20), batch = 2;
  Matrix q(batch * heads * queries, depth, depth), k(batch * heads * keys, depth, depth);
  Matrix v(batch * heads * keys, values, values), out(batch * heads * queries, values, values);
  Matrix mask(queries, keys, keys);
  const bool masks = between(0, 1);
  const auto strides = [&](long count, long length) {
    return ArchcostHeads{heads * count * length, count * length, length};
  };
  const ArchcostAttention of = {batch,
                                heads,
                                queries,
                                keys,
                                depth,
                                values,
                                strides(queries, depth),
                                strides(keys, depth),
                                strides(keys, values),
                                strides(queries, values),
                                {1, 0, 0, keys},
                                {1, 0, 0, keys},
                                0.3f};
  float* const places[] = {q.place(), k.place(), v.place(), masks ? mask.place() : nullptr, nullptr, out.place()};
  archcost_step_attention(&of, places, threads());
  Plain right(1, batch * heads, queries, values);
  for (long m = 0; m < batch * heads; ++m) {
    for (long i = 0; i < queries; ++i) {
      double sum = 0;
      for (long j = 0; j < keys; ++j) {
        double score = 0;
        for (long c = 0; c < depth; ++c) score += q.at(m * queries + i, c) * k.at(m * keys + j, c);
        const double weight = std::exp(score * of.scale + (masks ? mask.at(i, j) : 0));
        sum += weight;
        for (long c = 0; c < values; ++c) right.at(0, m, i, c) += weight * v.at(m * keys + j, c);
      }
      for (long c = 0; c < values; ++c) right.at(0, m, i, c) /= sum;
    }
  }
  report("attention", keys, error(right, images(1, batch * heads, queries, values, kFirst), out.data), kAllowed);
}

// Over the channels of a pixel, or over all pixels and channels of a group.
void check_norm(bool of_pixels, long from, long to) {
  const long groups = of_pixels ? 1 : between(1, 4), channels = groups * between(2, 20);
  const long height = between(1, 9), width = between(1, 9);
  const ArchcostImages in = images(2, channels, height, width, from), out = images(2, channels, height, width, to);
  Floats input = random_images(in), output(size(out), NAN);
  Floats weight = whole_blocks(random_floats(channels)), bias = whole_blocks(random_floats(channels));
  const bool scales = between(0, 1);
  const ArchcostLayerNorm layer = {map_of(in), map_of(out), random_activation(), 1e-3f};
  const ArchcostGroupNorm group = {map_of(in), map_of(out), layer.activation, groups, 1e-3f};
  float* const places[] = {input.data(), scales ? weight.data() : nullptr, scales ? bias.data() : nullptr,
                           output.data()};
  of_pixels ? archcost_step_layer_norm(&layer, places, threads()) : archcost_step_group_norm(&group, places, threads());
  const Plain x = plain_of(in, input);
  Plain right = x;
  // Each number is looked at with all that share its statistics.
  right.each([&](long n, long c, long i, long j, double& value) {
    const long each = channels / groups, first = c / each * each;
    double count = 0, sum = 0, squares = 0;
    for (long k = first; k < first + each; ++k) {
      for (long y = of_pixels ? i : 0; y < (of_pixels ? i + 1 : height); ++y) {
        for (long z = of_pixels ? j : 0; z < (of_pixels ? j + 1 : width); ++z) {
          ++count, sum += x.at(n, k, y, z), squares += x.at(n, k, y, z) * x.at(n, k, y, z);
        }
      }
    }
    const double mean = sum / count;
    value = (value - mean) / std::sqrt(squares / count - mean * mean + 1e-3);
    if (scales) value = value * weight[c] + bias[c];
  });
  report(of_pixels ? "layer norm" : "group norm", 10 * from + to,
         error(activated(layer.activation, right), out, output, right.largest()), kAllowed);
}

void check_softmax() {
  const long count = between(1, 9), length = between(1, 60);
  Matrix x(count, length, length + between(0, 3)), y(count, length, length + between(0, 3));
  const ArchcostSoftmax of = {count, length, x.stride, y.stride};
  float* const places[] = {x.place(), y.place()};
  archcost_step_softmax(&of, places, threads());
  Plain right(1, 1, count, length);
  right.each([&](long, long, long i, long j, double& value) {
    double sum = 0;
    for (long k = 0; k < length; ++k) sum += std::exp(x.at(i, k));
    value = std::exp(x.at(i, j)) / sum;
  });
  report("softmax", length, error(right, y.images(), y.data), kAllowed);
}

void check_interpolate(long mode) {
  const long channels = between(1, 40), height = between(1, 9), width = between(1, 9), factor = between(2, 3);
  const ArchcostImages in = images(2, channels, height, width, kBlocked);
  const ArchcostImages out = images(2, channels, height * factor, width * factor, kBlocked);
  Floats input = random_images(in), output(size(out), NAN);
  const bool aligned = mode == kBilinearAligned, nearest = mode == kNearest || mode == kNearestExact;
  const double row = aligned ? (height - 1.0) / (double(out.height) - 1) : 1.0 / double(factor);
  const double column = aligned ? (width - 1.0) / (double(out.width) - 1) : 1.0 / double(factor);
  const ArchcostInterpolation of = {in, out, mode, float(row), float(column)};
  float* const places[] = {input.data(), output.data()};
  archcost_step_interpolate(&of, places, threads());
  const Plain x = plain_of(in, input);
  const auto place = [&](long at, double step) {
    return aligned ? double(at) * step : std::max((double(at) + 0.5) * step - 0.5, 0.0);
  };
  Plain right(2, channels, out.height, out.width);
  right.each([&](long n, long c, long i, long j, double& value) {
    if (nearest) return void(value = x.at(n, c, i / factor, j / factor));
    const double y = place(i, row), z = place(j, column);
    const long top = long(y + 1e-9), left = long(z + 1e-9);
    for (long a = top; a < std::min(top + 2, height); ++a) {
      for (long b = left; b < std::min(left + 2, width); ++b) {
        const double down = top + 1 < height ? 1 - std::fabs(y - double(a)) : 1;
        const double across = left + 1 < width ? 1 - std::fabs(z - double(b)) : 1;
        value += x.at(n, c, a, b) * down * across;
      }
    }
  });
  report("interpolate", mode, error(right, out, output), kAllowed);
}

}  // namespace

void check_other_steps() {
  for (std::int64_t kind = kIdentity; kind <= kSoftplus; ++kind) check_activations(kind);
  for (int round = 0; round < 6; ++round) {
    for (long operation : {kAdd, kSubtract, kMultiply, kDivide, kMaximum, kMinimum, kSubtractFrom, kDivideInto}) {
      check_elementwise(operation);
    }
    check_affine(round % 2);
    for (long from : {kFirst, kLast, kBlocked}) {
      for (long to : {kFirst, kLast, kBlocked}) check_convert(from, to);
    }
    for (long sources = 1; sources <= 3; ++sources) check_gather(sources);
    for (int k = 0; k < 4; ++k) check_pool(k % 2);
    for (long from : {kLast, kBlocked}) {
      check_squeeze(from);
      for (long to : {kLast, kBlocked}) check_norm(true, from, to), check_norm(false, from, to);
    }
    check_linear(), check_linear();
    check_matmul(round % 2);
    check_attention();
    check_softmax();
    for (long mode : {kNearest, kNearestExact, kBilinear, kBilinearAligned}) check_interpolate(mode);
  }
}

}  // namespace checking
