// kLanes channels of one image, whichever way they lie in memory, as vectors: one pixel a vector.
#pragma once

#include <algorithm>

#include "convolution.h"
#include "vector.h"

namespace archcost {

class Pixels {
 public:
  // The channels from first_channel on, the first one of a block where the image is blocked: then padded lanes
  // are channels like others. `data` may point to const: only scatter writes.
  Pixels(const ArchcostImages& of, const float* data, long image, long first_channel)
      : row_stride(of.row_stride),
        column_stride(of.column_stride),
        data_(const_cast<float*>(data) + image * of.batch_stride +
              (is_blocked(of) ? first_channel / kLanes * of.block_stride : first_channel * of.channel_stride)),
        behind_(data + (of.batch - 1) * of.batch_stride + (of.channels - 1) * of.channel_stride +
                (of.height - 1) * of.row_stride + (of.width - 1) * of.column_stride + 1),
        channel_stride_(of.channel_stride),
        channels_(is_blocked(of) ? kLanes : std::min<long>(kLanes, of.channels - first_channel)),
        height_(of.height),
        width_(of.width) {}

  bool channels_together() const { return channel_stride_ == 1; }

  // A full vector can be read or written at each of these pixels.
  bool contains(long top, long left, long height, long width) const {
    return channels_ == kLanes && top >= 0 && left >= 0 && top + height <= height_ && left + width <= width_;
  }
  float* at(long row, long column) const { return data_ + row * row_stride + column * column_stride; }

  // Copies a rectangle, zero where it is outside the image, a vector a pixel.
  void gather(long top, long left, long height, long width, float* to, long to_row_stride) const {
    const long before = std::clamp(-left, 0L, width);
    const long until = std::clamp(width_ - left, before, width);
    for (long i = 0; i < height; ++i, to += to_row_stride) {
      if (top + i < 0 || top + i >= height_) {
        clear(to, width);
        continue;
      }
      clear(to, before);
      clear(to + until * kLanes, width - until);
      if (channels_together()) {
        gather_last(at(top + i, left + before), until - before, to + before * kLanes);
      } else {
        gather_first(at(top + i, left + before), until - before, to + before * kLanes);
      }
    }
  }

  // The way back; the rectangle is inside the image.
  void scatter(long top, long left, long height, long width, const float* from, long from_row_stride) const {
    if (!channels_together() && width == width_ && row_stride == width_) {
      // Rows that lie end to end are one long row: few of its pieces are shorter than a vector.
      return scatter_first(at(top, 0), height * width, width, from, from_row_stride);
    }
    for (long i = 0; i < height; ++i, from += from_row_stride) {
      if (channels_together()) {
        scatter_last(at(top + i, left), width, from);
      } else {
        scatter_first(at(top + i, left), width, width, from, from_row_stride);
      }
    }
  }

  const long row_stride, column_stride;

 private:
  static void clear(float* to, long pixels) {
    for (long j = 0; j < pixels; ++j) store(to + j * kLanes, Vector{});
  }

  void gather_last(const float* from, long pixels, float* to) const {
    for (long j = 0; j < pixels; ++j) store(to + j * kLanes, load_first(from + j * column_stride, channels_));
  }

  void scatter_last(float* to, long pixels, const float* from) const {
    for (long j = 0; j < pixels; ++j) store_first(to + j * column_stride, load(from + j * kLanes), channels_);
  }

  // NCHW, a square of pixels and channels at a time. The last square of a row may read into what follows, as
  // long as that belongs to the same tensor.
  void gather_first(const float* from, long pixels, float* to) const {
    for (long j = 0; j < pixels; j += kLanes) {
      const long count = std::min<long>(kLanes, pixels - j);
      const bool whole = from + j + (channels_ - 1) * channel_stride_ + kLanes <= behind_;
      Vector square[kLanes];
      for (long c = 0; c < kLanes; ++c) {
        const float* const line = from + j + c * channel_stride_;
        square[c] = c >= channels_ ? Vector{} : whole ? load(line) : load_first(line, count);
      }
      transpose(square);
      for (long p = 0; p < count; ++p) store(to + (j + p) * kLanes, square[p]);
    }
  }

  // A run of pixels that stands in rows of `width` where it comes from. The last square overlaps the one before
  // it, so as to be whole.
  void scatter_first(float* to, long pixels, long width, const float* from, long from_row_stride) const {
    const long count = std::min<long>(kLanes, pixels);
    for (long j = 0; j < pixels; j += kLanes) {
      const long first = std::min(j, pixels - count);
      const float* row = from + first / width * from_row_stride;
      long column = first % width;
      Vector square[kLanes] = {};
      for (long p = 0; p < count; ++p) {
        square[p] = load(row + column * kLanes);
        if (++column == width) column = 0, row += from_row_stride;
      }
      transpose(square);
      for (long c = 0; c < channels_; ++c) store_first(to + first + c * channel_stride_, square[c], count);
    }
  }

  float* const data_;
  const float* const behind_;
  const long channel_stride_, channels_, height_, width_;
};

}  // namespace archcost
