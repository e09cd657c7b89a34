#include "max_pool.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "threads.h"
#include "under_window.h"
#include "vector.h"

namespace archcost {
namespace {

// The pixels under a window, each where its channels begin.
using Seen = std::vector<const float*>;

// What is not a number wins, and stays, as in torch.nn.functional.max_pool2d.
ARCHCOST_INLINE Vector larger(Vector most, Vector value) { return ((value > most) | (value != value)) ? value : most; }

void pool_exactly(const Seen& seen, long channels, float* to) {
  for (long c = 0; c < channels; c += kLanes) {
    Vector most = load_first(seen[0] + c, channels - c);
    for (std::size_t k = 1; k < seen.size(); ++k) most = larger(most, load_first(seen[k] + c, channels - c));
    store_first(to + c, most, channels - c);
  }
}

// Two instructions a pixel: the result is right where the sum of them all is a number.
template <int kCount>
ARCHCOST_INLINE void pool_vector(const Seen& seen, long c, float* to, Vector& doubt) {
  const int count = kCount ? kCount : int(seen.size());
  Vector most = load(seen[0] + c), sum = most;
#pragma GCC unroll 9
  for (int k = 1; k < count; ++k) {
    const Vector value = load(seen[k] + c);
    most = most > value ? most : value;
    sum += value;
  }
  store(to + c, most);
  doubt += sum - sum;
}

template <int kCount>
void pool_whole_vectors(const Seen& seen, long channels, float* to, Vector& doubt) {
  Vector here = doubt;
  for (long c = 0; c + kLanes <= channels; c += kLanes) pool_vector<kCount>(seen, c, to, here);
  doubt = here;
}

void pool_quickly(const Seen& seen, long channels, float* to, Vector& doubt) {
  const auto pool = seen.size() == 9   ? pool_whole_vectors<9>
                    : seen.size() == 6 ? pool_whole_vectors<6>
                    : seen.size() == 4 ? pool_whole_vectors<4>
                                       : pool_whole_vectors<0>;
  pool(seen, channels, to, doubt);
}

// Outputs of a row that are pooled together: each pixel that is loaded serves all that see it.
constexpr int kColumns = 7;

class MaxPool {
 public:
  MaxPool(const Window& window, const ArchcostConvolution& of, const float* input, float* output)
      : window_(window), of_(of), input_(input), output_(output) {}

  void run_row(long image, long row) const {
    Vector doubt = {};
    if (!pool_together(image, row, doubt)) pool_one_by_one(image, row, doubt);
    float any = 0;
    for (int lane = 0; lane < kLanes; ++lane) any += doubt[lane];
    if (any == 0) return;
    Seen seen;
    for (long column = 0; column < of_.output.width; ++column) {
      look(image, row, column, seen);
      if (!seen.empty()) pool_exactly(seen, of_.output.channels, at(image, row, column));
    }
  }

 private:
  // False where the window, or the image, is not one that this is for.
  bool pool_together(long image, long row, Vector& doubt) const {
    const long width = window_.width, step = window_.column_step;
    const bool near = window_.row_dilation == 1 && window_.column_dilation == 1;
    if (!near || of_.output.width < kColumns || of_.output.channels < kLanes) return false;
    if (!in_image(row * window_.row_step - of_.pad_top, window_.height, of_.input.height)) return false;
    if (!in_image(-of_.pad_left, width, of_.input.width)) return false;
    if (!in_image((of_.output.width - 1) * step - of_.pad_left, width, of_.input.width)) return false;
    if (width == 3 && step == 1) return pool_columns<3, 1>(image, row, doubt), true;
    if (width == 3 && step == 2) return pool_columns<3, 2>(image, row, doubt), true;
    return false;
  }

  // Whether a window sees a pixel: then its padding can be left out by looking at the nearest one twice.
  static bool in_image(long first, long taps, long size) { return first + taps > 0 && first < size; }

  template <int kWidth, int kStep>
  void pool_columns(long image, long row, Vector& doubt) const {
    constexpr int kUnder = (kColumns - 1) * kStep + kWidth;
    const ArchcostImages& in = of_.input;
    const long top = row * window_.row_step - of_.pad_top;
    Seen rows, pixels;
    for (long i = 0; i < window_.height; ++i) {
      const long y = std::clamp(top + i, 0L, long(in.height) - 1);
      rows.push_back(input_ + image * in.batch_stride + y * in.row_stride);
    }
    for (long next = 0; next < of_.output.width; next += kColumns) {
      // The last ones overlap those before, so as to be as many.
      const long column = std::min(next, of_.output.width - kColumns), left = column * kStep - of_.pad_left;
      float* const to = at(image, row, column);
      if (left >= 0 && left + kUnder <= in.width) {
        pool_blocks<kWidth, kStep>(Inside{rows.data(), left * in.column_stride, in.column_stride}, to, doubt);
        continue;
      }
      pixels.clear();
      for (const float* const line : rows) {
        for (long j = 0; j < kUnder; ++j) {
          pixels.push_back(line + std::clamp(left + j, 0L, long(in.width) - 1) * in.column_stride);
        }
      }
      pool_blocks<kWidth, kStep>(AtBorder<kUnder>{pixels.data()}, to, doubt);
    }
  }

  template <int kWidth, int kStep, class Pixels>
  void pool_blocks(const Pixels& pixels, float* to, Vector& doubt) const {
    constexpr int kUnder = (kColumns - 1) * kStep + kWidth;
    const long rows = window_.height, channels = of_.output.channels;
    Vector sum = {};
    for (long c = 0; c < channels; c += kLanes) {
      const long channel = std::min(c, channels - kLanes);
      Vector most[kUnder];
#pragma GCC unroll 15
      for (int pixel = 0; pixel < kUnder; ++pixel) {
        most[pixel] = load(pixels.at(0, pixel) + channel);
        sum += most[pixel];
        for (long i = 1; i < rows; ++i) {
          const Vector value = load(pixels.at(i, pixel) + channel);
          most[pixel] = most[pixel] > value ? most[pixel] : value;
          sum += value;
        }
      }
#pragma GCC unroll 7
      for (int column = 0; column < kColumns; ++column) {
        Vector largest = most[column * kStep];
#pragma GCC unroll 3
        for (int j = 1; j < kWidth; ++j) {
          const Vector value = most[column * kStep + j];
          largest = largest > value ? largest : value;
        }
        store(to + column * of_.output.column_stride + channel, largest);
      }
    }
    doubt += sum - sum;
  }

  void pool_one_by_one(long image, long row, Vector& doubt) const {
    const ArchcostImages& out = of_.output;
    const long whole = out.channels / kLanes * kLanes;
    Seen seen;
    for (long column = 0; column < out.width; ++column) {
      look(image, row, column, seen);
      float* const to = at(image, row, column);
      if (seen.empty()) {
        std::fill(to, to + out.channels, -INFINITY);
        continue;
      }
      pool_quickly(seen, whole, to, doubt);
      if (whole < out.channels) {
        for (const float*& pixel : seen) pixel += whole;
        pool_exactly(seen, out.channels - whole, to + whole);
      }
    }
  }

  void look(long image, long row, long column, Seen& seen) const {
    const ArchcostImages& in = of_.input;
    seen.clear();
    for (long i = 0; i < window_.height; ++i) {
      const long y = row * window_.row_step + i * window_.row_dilation - of_.pad_top;
      if (y < 0 || y >= in.height) continue;
      for (long j = 0; j < window_.width; ++j) {
        const long x = column * window_.column_step + j * window_.column_dilation - of_.pad_left;
        if (x < 0 || x >= in.width) continue;
        seen.push_back(input_ + image * in.batch_stride + y * in.row_stride + x * in.column_stride);
      }
    }
  }

  float* at(long image, long row, long column) const {
    const ArchcostImages& out = of_.output;
    return output_ + image * out.batch_stride + row * out.row_stride + column * out.column_stride;
  }

  const Window& window_;
  const ArchcostConvolution& of_;
  const float* const input_;
  float* const output_;
};

}  // namespace

void max_pool(const Window& window, const ArchcostConvolution& of, const float* input, float* output) {
  const MaxPool pool(window, of, input, output);
  parallel_for(int(std::max<long>(1, of.threads)), of.output.batch * of.output.height,
               [&](long line, int) { pool.run_row(line / of.output.height, line % of.output.height); });
}

}  // namespace archcost
