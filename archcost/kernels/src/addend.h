// What is added to outputs before they are limited: a tensor that lies in memory as they do. It is done to each
// piece of the output while that is in a near cache.
#pragma once

#include <algorithm>
#include <cmath>

#include "finish.h"

namespace archcost {

class Addend {
 public:
  // `from` may be null: then nothing is added.
  Addend(const ArchcostConvolution& of, const float* from, float* output) : of_(of), from_(from), output_(output) {}

  explicit operator bool() const { return from_ != nullptr; }

  // The convolution that leaves the limits to this.
  static ArchcostConvolution without_limits(ArchcostConvolution of, const float* from) {
    if (from) of.low = -INFINITY, of.high = INFINITY;
    return of;
  }

  // To a rectangle of pixels of some channels.
  void operator()(long image, long first_channel, long channels, long top, long left, long height,
                  long width) const {
    const ArchcostImages& to = of_.output;
    channels = std::min<long>(channels, to.channels - first_channel);
    const long first = image * to.batch_stride + first_channel * to.channel_stride + left * to.column_stride;
    if (to.channel_stride == 1 && channels == to.column_stride) {  // pixels lie end to end
      channels *= width, width = 1;
    }
    for (long i = top; i < top + height; ++i) {
      const long row = first + i * to.row_stride;
      if (to.channel_stride == 1) {
        for (long j = 0; j < width; ++j) add(row + j * to.column_stride, channels);
      } else {
        for (long c = 0; c < channels; ++c) add(row + c * to.channel_stride, width);
      }
    }
  }

 private:
  void add(long at, long count) const {
    const Finish finish(Vector{}, of_);
    long k = 0;
    for (; k + kLanes <= count; k += kLanes) {
      store(output_ + at + k, finish(load(output_ + at + k) + load(from_ + at + k)));
    }
    if (k == count) return;
    const Vector sum = load_first(output_ + at + k, count - k) + load_first(from_ + at + k, count - k);
    store_first(output_ + at + k, finish(sum), count - k);
  }

  const ArchcostConvolution& of_;
  const float* const from_;
  float* const output_;
};

}  // namespace archcost
