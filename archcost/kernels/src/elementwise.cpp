#include "elementwise.h"

#include <algorithm>

#include "export.h"
#include "functions.h"
#include "items.h"

namespace archcost {
namespace {

// Floats whose activation is computed behind the operation, while they are in the first-level cache.
constexpr long kNear = 1024;

// piece(image, block, first, count) for pieces of all runs.
template <class Piece>
void for_pieces(const ArchcostRuns& of, int threads, const Piece& piece) {
  const long pieces = std::max(divide_up(of.length, kShare), 1L);
  const long runs_of_item = std::max(kShare / std::max<long>(of.length, 1), 1L), runs = of.batch * of.blocks;
  const auto item = [&](long index, int) {
    const long first = index % pieces * kShare, group = index / pieces * runs_of_item;
    for (long run = group; run < std::min(group + runs_of_item, runs); ++run) {
      piece(run / of.blocks, run % of.blocks, first, std::min<long>(kShare, of.length - first));
    }
  };
  for_items(threads, divide_up(runs, runs_of_item) * pieces, item);
}

// to[i] = activation(compute(i)), where compute reads a vector, or what there is of it.
template <class Compute>
void finish_run(const ArchcostActivation& activation, long count, float* to, const Compute& compute) {
  const bool bounds = activation.kind == kClamp;
  const Clamp clamp(bounds ? activation : ArchcostActivation{kClamp, -__builtin_inff(), __builtin_inff()});
  const bool later = activation.kind != kIdentity && !bounds;
  for (long begin = 0; begin < count; begin += kNear) {
    const long whole = std::min(kNear, count - begin) / kLanes * kLanes;
    for (long i = begin; i < begin + whole; i += kLanes) store(to + i, clamp(compute(i, long(kLanes))));
    if (later) activate(activation, to + begin, whole);
  }
  if (const long rest = count % kLanes) {
    store_first(to + count - rest, clamp(compute(count - rest, rest)), rest);
    if (later) activate(activation, to + count - rest, rest);
  }
}

long start(const ArchcostRun& of, long image, long block) {
  return image * of.batch_stride + block * of.block_stride;
}

template <class Operate>
void combine(const ArchcostElementwise& of, const float* a, const float* b, float* out, int threads,
             const Operate& operate) {
  for_pieces(of.runs, threads, [&](long image, long block, long first, long count) {
    const float* const from = a + start(of.a, image, block) + first;
    const float* const second = b + start(of.b, image, block);
    float* const to = out + start(of.out, image, block) + first;
    if (of.second == kRun) {
      return finish_run(of.activation, count, to, [&](long i, long lanes) {
        return operate(load_first(from + i, lanes), load_first(second + first + i, lanes));
      });
    }
    const Vector all = of.second == kVector ? load(second) : broadcast(*second);
    finish_run(of.activation, count, to,
               [&](long i, long lanes) { return operate(load_first(from + i, lanes), all); });
  });
}

void apply(const ArchcostElementwise& of, const float* a, float* out, int threads) {
  with_function(of.activation, [&](const auto& function) {
    for_pieces(of.runs, threads, [&](long image, long block, long first, long count) {
      const float* const from = a + start(of.a, image, block) + first;
      float* const to = out + start(of.out, image, block) + first;
      const long whole = count / kLanes * kLanes;
      for (long i = 0; i < whole; i += kLanes) store(to + i, function(load(from + i)));
      if (whole < count) {
        store_first(to + whole, function(load_first(from + whole, count - whole)), count - whole);
      }
    });
  });
}

void elementwise(const ArchcostElementwise& of, const float* a, const float* b, float* out, int threads) {
  const auto run = [&](const auto& operate) { combine(of, a, b, out, threads, operate); };
  switch (of.operation) {
    case kAdd: return run([](Vector x, Vector y) { return x + y; });
    case kSubtract: return run([](Vector x, Vector y) { return x - y; });
    case kMultiply: return run([](Vector x, Vector y) { return x * y; });
    case kDivide: return run([](Vector x, Vector y) { return x / y; });
    case kMaximum: return run([](Vector x, Vector y) { return ((x > y) | (x != x)) ? x : y; });
    case kMinimum: return run([](Vector x, Vector y) { return ((x < y) | (x != x)) ? x : y; });
    case kSubtractFrom: return run([](Vector x, Vector y) { return y - x; });
    case kDivideInto: return run([](Vector x, Vector y) { return y / x; });
    case kNone: return apply(of, a, out, threads);
  }
}

void affine(const ArchcostAffine& of, const float* a, const float* scale, const float* shift, float* out,
            int threads) {
  for_pieces(of.runs, threads, [&](long image, long block, long first, long count) {
    const float* const from = a + start(of.a, image, block) + first;
    const long at = start(of.factors, image, block);
    const bool vector = of.second == kVector;
    const Vector factor = vector ? load(scale + at) : broadcast(scale[at]);
    const Vector addend = vector ? load(shift + at) : broadcast(shift[at]);
    finish_run(of.activation, count, out + start(of.out, image, block) + first,
               [&](long i, long lanes) { return load_first(from + i, lanes) * factor + addend; });
  });
}

}  // namespace
}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_elementwise(const void* arguments, float* const* places, int threads) {
  archcost::elementwise(*static_cast<const ArchcostElementwise*>(arguments), places[0], places[1], places[2],
                        threads);
}

ARCHCOST_EXPORT void archcost_step_affine(const void* arguments, float* const* places, int threads) {
  archcost::affine(*static_cast<const ArchcostAffine*>(arguments), places[0], places[1], places[2], places[3],
                   threads);
}
