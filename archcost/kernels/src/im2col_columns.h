// The columns of im2col's matrix: a tap and an input channel each, in the order of the packed weights.
#pragma once

#include <algorithm>
#include <vector>

#include "vector.h"
#include "window.h"

namespace archcost {

// Columns multiplied at a time: all taps of some chunks of channels, or some taps of one chunk.
struct ColumnBlock {
  long first_chunk, chunks, first_tap, taps;
};

// With kLanes channels or more, columns go by chunk of channels, tap, channel. With fewer ("dense") they go by
// tap and channel, so that neighbours lie together in the input, and are taken all at once.
struct Im2colColumns {
  Im2colColumns(const Window& window, long channels)
      : window(window), channels(channels), dense(channels < kLanes && window.taps() > 1) {}

  long depth() const { return window.taps() * channels; }
  long chunks() const { return divide_up(channels, kLanes); }

  long place(long tap, long channel) const {
    if (dense) return tap * channels + channel;
    const long first = channel / kLanes * kLanes;
    return first * window.taps() + tap * std::min<long>(kLanes, channels - first) + channel - first;
  }
  long first_place(const ColumnBlock& of) const { return place(of.first_tap, of.first_chunk * kLanes); }
  long whole_chunks(const ColumnBlock& of) const { return std::min(of.chunks, channels / kLanes - of.first_chunk); }

  // Of about `most` columns.
  std::vector<ColumnBlock> blocks(long most) const {
    const long taps = window.taps(), in_chunk = taps * std::min<long>(channels, kLanes);
    if (dense) return {{0, 1, 0, taps}};
    std::vector<ColumnBlock> found;
    const long pieces = divide_up(in_chunk, most);
    const long together = pieces > 1 ? 1 : divide_up(chunks(), divide_up(chunks(), most / in_chunk));
    const long some_taps = divide_up(taps, pieces);
    for (long c = 0; c < chunks(); c += together) {
      for (long t = 0; t < taps; t += some_taps) {
        found.push_back({c, std::min(together, chunks() - c), t, std::min(some_taps, taps - t)});
      }
    }
    return found;
  }

  const Window window;
  const long channels;
  const bool dense;
};

}  // namespace archcost
