#include "linear.h"

#include <algorithm>
#include <cmath>

#include "block_product.h"
#include "export.h"
#include "functions.h"
#include "items.h"
#include "matrix_product.h"
#include "scratch.h"

namespace archcost {
namespace {

constexpr long kPanel = kPanelVectors * kLanes;
// Floats of x that stay in the second-level cache while all panels of weights go by.
constexpr long kBlock = 1 << 17;
constexpr long kMostRows = 24 * kRows;
// Panels of a thread's item: what it takes to make the copying of rows cheap.
constexpr long kPanelsOfItem = 16;

// Rows a multiple of a page apart fall into the same lines of the first-level cache.
bool rows_collide(long rows, long stride) { return rows > 4 && stride % 512 == 0; }

struct Item {
  long first_row, rows, first_panel, panels;
};

class Linear {
 public:
  Linear(const ArchcostLinear& of, const float* x, const float* packed, const float* addend, float* y)
      : of_(of), x_(x), packed_(packed), addend_(addend), y_(y), chunks_(divide_up(of.out, kLanes)) {}

  long panels() const { return divide_up(chunks_, kPanelVectors); }
  long rows_of_item() const {
    const long groups = std::clamp(kBlock / std::max<long>(of_.in, 1) / kRows, 2L, kMostRows / kRows);
    return std::min<long>(of_.rows, groups * kRows);
  }
  long copied_row() const {
    return rows_collide(rows_of_item(), of_.in_stride) ? round_up(of_.in, kLanes) + kLanes : 0;
  }
  long scratch_floats() const { return rows_of_item() * (copied_row() + kPanel); }

  void run(const Item& item, float* scratch) const {
    const float* left = x_ + item.first_row * of_.in_stride;
    long row = of_.in_stride;
    float* const near = scratch + rows_of_item() * copied_row();
    if (copied_row()) {
      row = copied_row();
      for (long i = 0; i < item.rows; ++i) std::copy_n(left + i * of_.in_stride, of_.in, scratch + i * row);
      left = scratch;
    }
    RowGroup groups[kMostRows / kRows + 1];
    const long count = divide_up(item.rows, kRows);
    for (long panel = item.first_panel; panel < item.first_panel + item.panels; ++panel) {
      const long column = panel * kPanel, columns = std::min<long>(kPanel, of_.out - column);
      // The last panel may be narrower than its vectors, and the addend may lie in y.
      const bool direct = columns % kLanes == 0 && !addend_;
      float* const result = direct ? y_ + item.first_row * of_.out_stride + column : near;
      const long result_row = direct ? of_.out_stride : kPanel;
      for (long g = 0, first = 0; g < count; ++g) {
        const long height = divide_up(item.rows - first, count - g);
        groups[g] = {left + first * row, result + first * result_row, height};
        first += height;
      }
      multiply(groups, count, row, column, result_row, direct);
      finish(item, column, columns, result, result_row, direct);
    }
  }

 private:
  bool bounded() const { return of_.activation.kind == kClamp; }

  void multiply(const RowGroup* groups, long count, long row, long column, long result_row, bool last) const {
    static constexpr long kStart[] = {0};
    ArchcostConvolution limits = {};
    limits.low = last && bounded() ? of_.activation.low : -INFINITY;
    limits.high = last && bounded() ? of_.activation.high : INFINITY;
    BlockProduct product = {};
    product.groups = groups, product.group_count = count, product.left_row = row;
    product.full = {kStart, 1, of_.in}, product.partial = {kStart, 0, 0};
    product.panels = packed_ + column * of_.in, product.whole_depth = of_.in;
    product.column_chunks = std::min<long>(kPanelVectors, chunks_ - column / kLanes);
    product.result_row = result_row, product.result_chunk = kLanes;
    product.bias = packed_ + chunks_ * kLanes * of_.in + column, product.limits = &limits;
    multiply_block(product);
  }

  // What the product left to do: the addend, the activation, the way to y.
  void finish(const Item& item, long column, long columns, const float* result, long result_row, bool direct) const {
    const bool nothing = of_.activation.kind == kIdentity || bounded();
    if (direct && nothing) return;
    float* const to = y_ + item.first_row * of_.out_stride + column;
    const float* const addend = addend_ ? addend_ + item.first_row * of_.addend_stride + column : nullptr;
    with_function(of_.activation, [&](const auto& function) {
      for (long i = 0; i < item.rows; ++i) {
        for (long j = 0; j < columns; j += kLanes) {
          Vector value = load(result + i * result_row + j);
          if (addend) value += load_first(addend + i * of_.addend_stride + j, columns - j);
          store_first(to + i * of_.out_stride + j, function(value), columns - j);
        }
      }
    });
  }

  const ArchcostLinear& of_;
  const float *const x_, *const packed_, *const addend_;
  float* const y_;
  const long chunks_;
};

}  // namespace

long linear_packed_floats(long out, long in) { return round_up(out, kLanes) * (in + 1); }

void pack_linear(long out, long in, const float* weights, long stride, bool in_first, const float* bias, float* packed) {
  const long chunks = divide_up(out, kLanes);
  for (long chunk = 0; chunk < chunks; ++chunk) {
    const long panel = chunk / kPanelVectors, count = std::min<long>(kLanes, out - chunk * kLanes);
    const long row = std::min<long>(kPanelVectors, chunks - panel * kPanelVectors) * kLanes;
    float* const to = packed + panel * kPanel * in + chunk % kPanelVectors * kLanes;
    if (in_first) {
      for (long k = 0; k < in; ++k) store(to + k * row, load_first(weights + k * stride + chunk * kLanes, count));
    } else {
      const float* const from = weights + chunk * kLanes * stride;
      for (long k = 0; k < in; k += kLanes) {
        Vector square[kLanes] = {};
        const long depth = std::min<long>(kLanes, in - k);
        for (long i = 0; i < count; ++i) square[i] = load_first(from + i * stride + k, depth);
        transpose(square);
        for (long i = 0; i < depth; ++i) store(to + (k + i) * row, square[i]);
      }
    }
    const Vector start = bias ? load_first(bias + chunk * kLanes, count) : Vector{};
    store(packed + chunks * kLanes * in + chunk * kLanes, start);
  }
}

void linear(const ArchcostLinear& of, const float* x, const float* packed, const float* addend, float* y, int threads) {
  const Linear layer(of, x, packed, addend, y);
  if (of.rows == 0 || of.out == 0) return;
  const long rows = layer.rows_of_item(), row_items = divide_up(of.rows, rows);
  // Of equal height.
  const long height = round_up(divide_up(of.rows, row_items), rows > kRows ? kRows : 1);
  const long panels = threads > 1 ? std::clamp(layer.panels() / (4 * threads), 1L, kPanelsOfItem) : layer.panels();
  const long panel_items = divide_up(layer.panels(), panels);
  const long each = round_up(layer.scratch_floats(), kLanes);
  const Scratch scratch(each * threads);
  for_items(threads, row_items * panel_items, [&](long index, int worker) {
    const long first_row = index / panel_items * height, first_panel = index % panel_items * panels;
    if (first_row >= of.rows) return;
    layer.run({first_row, std::min<long>(height, of.rows - first_row), first_panel,
               std::min(panels, layer.panels() - first_panel)},
              scratch.data() + worker * each);
  });
}

}  // namespace archcost

ARCHCOST_EXPORT void archcost_step_linear(const void* arguments, float* const* places, int threads) {
  archcost::linear(*static_cast<const ArchcostLinear*>(arguments), places[0], places[1], places[2], places[3], threads);
}

ARCHCOST_EXPORT std::int64_t archcost_linear_packed_floats(std::int64_t out, std::int64_t in) {
  return archcost::linear_packed_floats(out, in);
}

// Weights [out][in], a row `stride` floats behind the other; bias may be null.
ARCHCOST_EXPORT void archcost_linear_pack(std::int64_t out, std::int64_t in, std::int64_t stride, const float* weights,
                                          const float* bias, float* packed) {
  archcost::pack_linear(out, in, weights, stride, false, bias, packed);
}
