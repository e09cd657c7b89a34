// What is done to outputs behind the sum: a tensor that lies in memory as they do is added, then the activation.
// It is done to each piece of the output while that is in a near cache.
#pragma once

#include <algorithm>
#include <cmath>

#include "activation.h"
#include "finish.h"

namespace archcost {

// A clamp is no more than the limits of a convolution: they cost nothing on the way to memory.
inline ArchcostConvolution with_limits(ArchcostConvolution of, const ArchcostActivation& activation) {
  const bool clamp = activation.kind == kClamp;
  of.low = clamp ? activation.low : -INFINITY, of.high = clamp ? activation.high : INFINITY;
  return of;
}

class Epilogue {
 public:
  // `addend` may be null: then nothing is added. The limits of a clamp are those of the convolution.
  Epilogue(const ArchcostConvolution& of, const float* addend, float* output, const ArchcostActivation& activation = {})
      : of_(of),
        addend_(addend),
        output_(output),
        activation_(activation),
        activates_(activation.kind != kIdentity && activation.kind != kClamp) {}

  // Whether there is anything to do.
  explicit operator bool() const { return addend_ || activates_; }

  // The convolution that leaves the limits to this.
  ArchcostConvolution before() const {
    ArchcostConvolution of = of_;
    if (addend_) of.low = -INFINITY, of.high = INFINITY;
    return of;
  }

  // To a rectangle of pixels of some channels, from the first one of a block on where the output is blocked.
  void operator()(long image, long first_channel, long channels, long top, long left, long height,
                  long width) const {
    const ArchcostImages& to = of_.output;
    channels = std::min<long>(channels, to.channels - first_channel);
    const long first = image * to.batch_stride + left * to.column_stride + top * to.row_stride;
    if (is_blocked(to)) {
      for (long c = first_channel; c < first_channel + channels; c += kLanes) {
        rectangle(first + c / kLanes * to.block_stride, kLanes, height, width);
      }
    } else {
      rectangle(first + first_channel * to.channel_stride, channels, height, width);
    }
  }

 private:
  void rectangle(long first, long channels, long height, long width) const {
    const ArchcostImages& to = of_.output;
    if (to.channel_stride == 1 && channels == to.column_stride) {  // pixels lie end to end
      channels *= width, width = 1;
      if (to.row_stride == channels) channels *= height, height = 1;
    }
    for (long i = 0; i < height; ++i, first += to.row_stride) {
      if (to.channel_stride == 1) {
        for (long j = 0; j < width; ++j) piece(first + j * to.column_stride, channels);
      } else {
        for (long c = 0; c < channels; ++c) piece(first + c * to.channel_stride, width);
      }
    }
  }

  void piece(long at, long count) const {
    if (addend_) add(at, count);
    if (activates_) activate(activation_, output_ + at, count);
  }

  void add(long at, long count) const {
    const Finish finish(Vector{}, of_);
    long k = 0;
    for (; k + kLanes <= count; k += kLanes) {
      store(output_ + at + k, finish(load(output_ + at + k) + load(addend_ + at + k)));
    }
    if (k == count) return;
    const Vector sum = load_first(output_ + at + k, count - k) + load_first(addend_ + at + k, count - k);
    store_first(output_ + at + k, finish(sum), count - k);
  }

  const ArchcostConvolution& of_;
  const float* const addend_;
  float* const output_;
  const ArchcostActivation activation_;
  const bool activates_;
};

}  // namespace archcost
