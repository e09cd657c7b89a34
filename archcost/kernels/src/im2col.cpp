#include "im2col.h"

#include <vector>

#include "epilogue.h"
#include "im2col_left.h"
#include "matrix_product.h"
#include "pixels.h"
#include "scratch.h"
#include "threads.h"

namespace archcost {
namespace {

// Columns of the matrix at a time: their panel of weights and a few rows stay in the first-level cache, or near.
constexpr long kColumns = 512;
// Pixels and results of a block, in bytes, that stay in the second-level cache beside the weights.
constexpr long kCache = 256 << 10;
// Positions of a block: enough to pay for reading all weights, and for the pixels that blocks share.
constexpr long kPositions = kRows * 32;

class Im2colConvolution {
 public:
  Im2colConvolution(const Window& window, const ArchcostConvolution& of, const float* input)
      : of_(of),
        threads_(int(std::max<long>(1, of.threads))),
        out_chunks_(divide_up(of.output.channels, kLanes)),
        columns_(window, of.input.channels),
        blocks_(columns_.blocks(kColumns)),
        left_(columns_, of, input, positions_at_a_time(), blocks_),
        output_(left_.output()),
        in_place_(output_.channel_stride == 1 && output_.channels % kLanes == 0 &&
                  (!left_.continuous() || continuous())) {}

  long scratch_floats() const { return threads_ * worker_floats(); }

  void run(const float* packed, const float* bias, const float* addend, float* output) const {
    const Epilogue epilogue(of_, addend, output);
    const ArchcostConvolution limits = epilogue.before();
    std::vector<float> all_bias(out_chunks_ * kLanes);
    if (bias) std::copy(bias, bias + of_.output.channels, all_bias.begin());
    const Scratch scratch(scratch_floats());
    parallel_for(threads_, left_.blocks(), [&](long index, int worker) {
      const std::vector<Run> runs = left_.block(index);
      run_block(runs, limits, packed, all_bias.data(), output, scratch.data() + worker * worker_floats());
      for (std::size_t r = 0; epilogue && r < runs.size(); ++r) finish(runs[r], epilogue);
    });
  }

 private:
  long positions_at_a_time() const {
    if (of_.block_tiles > 0) return of_.block_tiles;
    const long position = (of_.input.channels + out_chunks_ * kLanes) * long(sizeof(float));
    const long fitting = kCache / position / kRows * kRows;
    const long all = of_.output.batch * of_.output.height * of_.output.width;
    const long blocks = divide_up(all, std::clamp<long>(fitting, 8 * kRows, kPositions));
    return divide_up(all, round_up(blocks, threads_));  // no thread is left without one at the end
  }

  // Positions follow each other over the ends of rows and images.
  bool continuous() const {
    const ArchcostImages flat = flattened(output_);
    return flat.height == 1 && (flat.batch == 1 || flat.batch_stride == flat.width * flat.column_stride);
  }

  long result_floats() const { return in_place_ ? 0 : left_.most_positions() * out_chunks_ * kLanes; }
  long worker_floats() const { return round_up(left_.scratch_floats() + result_floats(), 1024) + 16; }

  // Neighbouring positions, in groups of nearly equal height.
  std::vector<RowGroup> groups(const std::vector<Run>& runs, const float* left, float* result,
                               float* output) const {
    std::vector<RowGroup> found;
    long done = 0;
    for (std::size_t r = 0; r < runs.size() && (r == 0 || !left_.continuous()); ++r) {
      const Run& run = runs[r];
      long count = run.count;
      for (std::size_t i = 1; i < runs.size() && left_.continuous(); ++i) count += runs[i].count;
      float* to = result + done * kLanes;
      if (in_place_) {
        to = output + run.image * output_.batch_stride + run.row * output_.row_stride +
             run.column * output_.column_stride;
      }
      const float* const from = left_.row(runs, r, done, left);
      const long pieces = divide_up(count, kRows), to_row = in_place_ ? output_.column_stride : kLanes;
      for (long piece = 0, at = 0, height; piece < pieces; ++piece, at += height) {
        height = divide_up(count - at, pieces - piece);
        found.push_back({from + at * left_.row_stride(), to + at * to_row, height});
      }
      done += count;
    }
    return found;
  }

  void run_block(const std::vector<Run>& runs, const ArchcostConvolution& limits, const float* packed,
                 const float* bias, float* output, float* scratch) const {
    float* const result = scratch + left_.scratch_floats();
    const std::vector<RowGroup> row_groups = groups(runs, scratch, result, output);
    BlockProduct product = {};
    product.groups = row_groups.data();
    product.group_count = long(row_groups.size());
    product.left_row = left_.row_stride();
    product.fetches_rows = left_.in_place();
    product.panels = packed;
    product.whole_depth = columns_.depth();
    product.column_chunks = out_chunks_;
    product.result_row = in_place_ ? output_.column_stride : kLanes;
    product.result_chunk = in_place_ ? kLanes : left_.most_positions() * kLanes;
    product.limits = &limits;
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      left_.fill(runs, blocks_[b], scratch);
      product.full = left_.full(b);
      product.partial = left_.partial(b);
      product.first_depth = columns_.first_place(blocks_[b]);
      product.adds = b > 0;
      product.bias = b + 1 == blocks_.size() ? bias : nullptr;
      multiply_block(product);
    }
    if (!in_place_) write(runs, result, output);
  }

  void write(const std::vector<Run>& runs, const float* result, float* output) const {
    const ArchcostImages flat = flattened(output_);
    for (std::size_t r = 0; r < runs.size();) {
      // Runs that follow each other in memory are one.
      const Run& run = runs[r];
      const bool in_rows = flat.height == output_.height;
      const long row = in_rows ? run.row : 0, column = in_rows ? run.column : run.row * output_.width + run.column;
      long count = run.count;
      for (++r; !in_rows && r < runs.size() && runs[r].image == run.image; ++r) {
        if (runs[r].row * output_.width + runs[r].column != column + count) break;
        count += runs[r].count;
      }
      for (long c = 0; c < out_chunks_; ++c) {
        const float* const from = result + c * left_.most_positions() * kLanes;
        Pixels(flat, output, run.image, c * kLanes).scatter(row, column, 1, count, from, 0);
      }
      result += count * kLanes;
    }
  }

  // Positions may be counted through all rows as if they were one.
  void finish(const Run& run, const Epilogue& epilogue) const {
    const long width = of_.output.width;
    for (long at = run.column, end = run.column + run.count, count; at < end; at += count) {
      const long column = at % width;
      count = std::min(end - at, width - column);
      epilogue(run.image, 0, of_.output.channels, run.row + at / width, column, 1, count);
    }
  }

  const ArchcostConvolution& of_;
  const int threads_;
  const long out_chunks_;
  const Im2colColumns columns_;
  const std::vector<ColumnBlock> blocks_;
  const Im2colLeft left_;
  const ArchcostImages output_;
  const bool in_place_;
};

}  // namespace

long im2col_packed_floats(const Window& window, long out_channels, long in_channels) {
  return divide_up(out_channels, kLanes) * kLanes * window.taps() * in_channels;
}

// [panel of kPanelVectors vectors of output channels][column of the matrix][output channel]
void pack_im2col(const Window& window, long out_channels, long in_channels, const float* weights,
                 float* packed) {
  const Im2colColumns columns(window, in_channels);
  const long taps = window.taps(), depth = columns.depth(), chunks = divide_up(out_channels, kLanes);
  std::fill(packed, packed + im2col_packed_floats(window, out_channels, in_channels), 0.0f);
  for (long out = 0; out < out_channels; ++out) {
    const long panel = out / (kPanelVectors * kLanes) * kPanelVectors;
    const long width = std::min<long>(kPanelVectors, chunks - panel) * kLanes;
    float* const column = packed + panel * kLanes * depth + out - panel * kLanes;
    for (long in = 0; in < in_channels; ++in) {
      for (long tap = 0; tap < taps; ++tap) {
        column[columns.place(tap, in) * width] = weights[(out * in_channels + in) * taps + tap];
      }
    }
  }
}

long im2col_scratch_floats(const Window& window, const ArchcostConvolution& convolution) {
  return Im2colConvolution(window, convolution, nullptr).scratch_floats();
}

void convolve_im2col(const Window& window, const ArchcostConvolution& convolution, const float* input,
                     const float* packed, const float* bias, float* output, const float* addend) {
  Im2colConvolution(window, convolution, input).run(packed, bias, addend, output);
}

}  // namespace archcost
