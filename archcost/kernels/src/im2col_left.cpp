#include "im2col_left.h"

#include "pixels.h"
#include "row_fetch.h"

namespace archcost {
namespace {

// A run of positions this long fills the registers well enough.
constexpr long kGoodHeight = kRows * 4 / 7;
// Rows this many floats apart, or a multiple, compete for the same few places in the first-level cache.
constexpr long kBadStride = 512;

// Rows of pixels fetched before they are staged.
constexpr long kAhead = 2;

const float* end_of(const ArchcostImages& of, const float* data) {
  return data + (of.batch - 1) * of.batch_stride + (of.channels - 1) * of.channel_stride +
         (of.height - 1) * of.row_stride + (of.width - 1) * of.column_stride + 1;
}

}  // namespace

Im2colLeft::Im2colLeft(const Im2colColumns& columns, const ArchcostConvolution& of, const float* input,
                       long positions, const std::vector<ColumnBlock>& blocks)
    : columns_(columns),
      window_(columns.window),
      input_(of.input),
      output_(of.output),
      pad_top_(of.pad_top),
      pad_left_(of.pad_left),
      data_(input),
      behind_(end_of(of.input, input)) {
  // A pixel for a position: rows need not be told apart.
  const bool same = input_.height == output_.height && input_.width == output_.width;
  const bool stepless = window_.row_step == 1 && window_.column_step == 1;
  if (window_.taps() == 1 && stepless && same && pad_top_ == 0 && pad_left_ == 0 && flattened(input_).height == 1 &&
      flattened(output_).height == 1) {
    input_ = flattened(input_);
    output_ = flattened(output_);
  }
  way_ = way();
  const long width = output_.width;
  if (way_ == kStaged) {
    row_width_ = width > kRows * 8 ? round_up(divide_up(width, divide_up(width, kRows * 8)), kRows) : width;
    rows_ = std::clamp<long>(positions / row_width_, 1L, output_.height);
    if (output_.height == 1 && width > positions) {
      row_width_ = round_up(divide_up(width, divide_up(width, std::max(row_width_, positions))), kRows);
    } else if (output_.height == 1) {
      row_width_ = width;
    }
    rows_ = divide_up(output_.height, divide_up(output_.height, rows_));
    most_positions_ = rows_ * row_width_;
    pitch_ = window_.columns_under(row_width_);
    const long lanes = columns.dense ? columns.channels : kLanes;
    chunk_floats_ = round_up(window_.rows_under(rows_) * pitch_ * lanes, kLanes);
  } else {
    const long all = output_.batch * output_.height * width;
    most_positions_ = std::min(all, round_up(divide_up(all, divide_up(all, positions)), kRows));
    chunk_floats_ = way_ == kCopied ? most_positions_ * kLanes : 0;
  }
  find_offsets(blocks);
}

Im2colLeft::Way Im2colLeft::way() const {
  const bool last = input_.channel_stride == 1;
  const bool inside = pad_top_ == 0 && pad_left_ == 0 && window_.rows_under(output_.height) <= input_.height &&
                      window_.columns_under(output_.width) <= input_.width;
  if (window_.taps() == 1 && last && inside && row_stride_in_place() % kBadStride != 0) return kInPlace;
  if (columns_.dense || (window_.taps() == 1 && !last)) return kStaged;
  const long height = output_.width / divide_up(output_.width, kRows);
  return window_.taps() > 1 && height >= kGoodHeight ? kStaged : kCopied;
}

void Im2colLeft::find_offsets(const std::vector<ColumnBlock>& blocks) {
  if (columns_.dense) length_ = (window_.column_dilation == 1 ? window_.width : 1) * columns_.channels;
  for (const ColumnBlock& of : blocks) {
    std::vector<long> offsets;
    full_.push_back(columns_.whole_chunks(of) * of.taps);
    for (long c = 0; c < of.chunks; ++c) {
      for (long t = 0; t < of.taps; ++t) {
        const long tap = of.first_tap + t;
        if (way_ == kStaged) {
          const long pixel = window_.row_of(tap) * pitch_ + window_.column_of(tap);
          if (!columns_.dense) {
            offsets.push_back(c * chunk_floats_ + pixel * kLanes);
          } else if (window_.column_dilation > 1 || tap % window_.width == 0) {
            offsets.push_back(pixel * columns_.channels);
          }
        } else {
          offsets.push_back(way_ == kCopied ? (c * of.taps + t) * chunk_floats_ : (of.first_chunk + c) * kLanes);
        }
      }
    }
    if (columns_.dense) full_.back() = long(offsets.size());
    most_chunks_ = std::max(most_chunks_, way_ == kCopied ? of.chunks * of.taps : of.chunks);
    offsets_.push_back(std::move(offsets));
  }
}

long Im2colLeft::row_stride_in_place() const { return window_.column_step * input_.column_stride; }

long Im2colLeft::row_stride() const {
  if (way_ == kInPlace) return row_stride_in_place();
  return way_ == kCopied ? kLanes : window_.column_step * (columns_.dense ? columns_.channels : kLanes);
}

long Im2colLeft::blocks() const {
  if (way_ != kStaged) return divide_up(output_.batch * output_.height * output_.width, most_positions_);
  return output_.batch * divide_up(output_.height, rows_) * divide_up(output_.width, row_width_);
}

std::vector<Run> Im2colLeft::block(long index) const {
  std::vector<Run> runs;
  if (way_ == kStaged) {
    const long across = divide_up(output_.width, row_width_), down = divide_up(output_.height, rows_);
    const long column = index % across * row_width_, row = index / across % down * rows_;
    for (long i = row; i < std::min<long>(row + rows_, output_.height); ++i) {
      runs.push_back({index / across / down, i, column, std::min<long>(row_width_, output_.width - column)});
    }
    return runs;
  }
  const long area = output_.height * output_.width;
  const long end = std::min<long>(area * output_.batch, (index + 1) * most_positions_);
  for (long at = index * most_positions_; at < end; at += runs.back().count) {
    const long column = at % output_.width;
    runs.push_back({at / area, at % area / output_.width, column, std::min<long>(end - at, output_.width - column)});
  }
  return runs;
}

const float* Im2colLeft::row(const std::vector<Run>& runs, std::size_t run, long position_in_block,
                             const float* scratch) const {
  if (way_ == kStaged) {
    const long row = (runs[run].row - runs[0].row) * window_.row_step;
    return scratch + row * pitch_ * (columns_.dense ? columns_.channels : kLanes);
  }
  if (way_ == kCopied) return scratch + position_in_block * kLanes;
  return data_ + runs[run].image * input_.batch_stride + runs[run].row * window_.row_step * input_.row_stride +
         runs[run].column * window_.column_step * input_.column_stride;
}

void Im2colLeft::fill(const std::vector<Run>& runs, const ColumnBlock& columns, float* scratch) const {
  if (way_ == kStaged) {
    stage(runs.front(), long(runs.size()), columns, scratch);
  } else if (way_ == kCopied) {
    for (const Run& run : runs) {
      copy(run, columns, scratch);
      scratch += run.count * kLanes;
    }
  }
}

void Im2colLeft::stage(const Run& first, long rows, const ColumnBlock& columns, float* to) const {
  const long top = first.row * window_.row_step - pad_top_, left = first.column * window_.column_step - pad_left_;
  const long height = window_.rows_under(rows), width = window_.columns_under(first.count);
  if (columns_.dense) return stage_dense(first.image, top, left, height, width, to);
  // The taps of a chunk may come in several blocks: it stays where it is.
  if (columns.first_tap > 0) return;
  for (long c = 0; c < columns.chunks; ++c, to += chunk_floats_) {
    const Pixels source(input_, data_, first.image, (columns.first_chunk + c) * kLanes);
    for (long i = 0; i < kAhead; ++i) fetch_row<false>(source, input_, top + i);
    for (long i = 0; i < height; ++i) {
      fetch_row<false>(source, input_, top + i + kAhead);
      source.gather(top + i, left, 1, width, to + i * pitch_ * kLanes, 0);
    }
  }
}

// [row][column][channel], with zeros around the image.
void Im2colLeft::stage_dense(long image, long top, long left, long height, long width, float* to) const {
  const long channels = input_.channels;
  const long before = std::clamp<long>(-left, 0L, width), until = std::clamp<long>(input_.width - left, before, width);
  for (long i = 0; i < height; ++i, to += pitch_ * channels) {
    const bool inside = top + i >= 0 && top + i < input_.height;
    const long begin = inside ? before : width, end = inside ? until : width;
    std::fill(to, to + begin * channels, 0.0f);
    std::fill(to + end * channels, to + width * channels, 0.0f);
    if (begin == end) continue;
    const float* const from = data_ + image * input_.batch_stride + (top + i) * input_.row_stride +
                              (left + begin) * input_.column_stride;
    float* const target = to + begin * channels;
    if (input_.column_stride == channels && (input_.channel_stride == 1 || channels == 1)) {
      std::copy(from, from + (end - begin) * channels, target);
      continue;
    }
    for (long c = 0; c < channels; ++c) {
      const float* const line = from + c * input_.channel_stride;
      for (long j = 0; j < end - begin; ++j) target[j * channels + c] = line[j * input_.column_stride];
    }
  }
}

// Each tap of each position is a stretch of channels. In NCHW the map is small: channels are picked one by one.
void Im2colLeft::copy(const Run& run, const ColumnBlock& columns, float* to) const {
  const long step = window_.column_step * input_.column_stride, to_chunk = columns.taps * chunk_floats_;
  for (long t = 0; t < columns.taps; ++t, to += chunk_floats_) {
    const long tap = columns.first_tap + t;
    const long y = run.row * window_.row_step + window_.row_of(tap) - pad_top_;
    const long x = run.column * window_.column_step + window_.column_of(tap) - pad_left_;
    const bool inside = y >= 0 && y < input_.height;
    for (long c = 0; c < columns.chunks; ++c) {
      const long first = (columns.first_chunk + c) * kLanes, lanes = std::min<long>(kLanes, input_.channels - first);
      const float* from = data_ + run.image * input_.batch_stride + y * input_.row_stride + x * input_.column_stride +
                          first * input_.channel_stride;
      float* target = to + c * to_chunk;
      for (long j = 0; j < run.count; ++j, from += step, target += kLanes) {
        const long at = x + j * window_.column_step;
        if (!inside || at < 0 || at >= input_.width) {
          store(target, Vector{});
        } else if (input_.channel_stride != 1) {
          for (long lane = 0; lane < lanes; ++lane) target[lane] = from[lane * input_.channel_stride];
        } else {
          store(target, from + kLanes <= behind_ ? load(from) : load_first(from, lanes));
        }
      }
    }
  }
}

}  // namespace archcost
