// The pixels under the windows of several neighbouring outputs of a row, in channels_last.
#pragma once

namespace archcost {

// All in the image: from where each row begins, that many floats on.
struct Inside {
  const float* const* rows;
  long first, column_stride;
  const float* at(long row, long column) const { return rows[row] + first + column * column_stride; }
};

// One by one, one row behind the other, where some of them are padding.
template <int kUnder>
struct AtBorder {
  const float* const* pixels;
  const float* at(long row, long column) const { return pixels[row * kUnder + column]; }
};

}  // namespace archcost
