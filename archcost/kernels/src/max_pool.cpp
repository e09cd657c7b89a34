#include "max_pool.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "threads.h"
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

class MaxPool {
 public:
  MaxPool(const Window& window, const ArchcostConvolution& of, const float* input, float* output)
      : window_(window), of_(of), input_(input), output_(output) {}

  void run_row(long image, long row) const {
    const ArchcostImages& out = of_.output;
    const long whole = out.channels / kLanes * kLanes;
    Seen seen;
    Vector doubt = {};
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
    float any = 0;
    for (int lane = 0; lane < kLanes; ++lane) any += doubt[lane];
    if (any == 0) return;
    for (long column = 0; column < out.width; ++column) {
      look(image, row, column, seen);
      if (!seen.empty()) pool_exactly(seen, out.channels, at(image, row, column));
    }
  }

 private:
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
