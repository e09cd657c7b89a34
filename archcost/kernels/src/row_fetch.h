// Rows of pixels fetched ahead: in channels_last a chunk of channels is one cache line of each pixel, a pattern
// that processors do not foresee.
#pragma once

#include "pixels.h"

namespace archcost {

// Does nothing outside the image, where columns or blocks of them lie together, and for a sequence, of which a part may be in use.
template <bool kWritten>
ARCHCOST_INLINE void fetch_row(const Pixels& of, const ArchcostImages& images, long row) {
  if (!of.channels_together() || is_blocked(images) || images.height == 1 || row < 0 || row >= images.height) return;
  const float* pixel = of.at(row, 0);
  for (long j = 0; j < images.width; ++j, pixel += of.column_stride) __builtin_prefetch(pixel, kWritten);
}

}  // namespace archcost
