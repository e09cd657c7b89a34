#include "fft.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>

namespace archcost {
namespace {

// Radices whose product is the number: the fewest, and of those the most alike; none if there are none.
std::vector<int> factors(int number, int most = 8) {
  if (number == 1) return {};
  std::vector<int> found;
  for (int radix : {8, 6, 5, 4, 3, 2}) {
    if (radix > most || number % radix) continue;
    std::vector<int> others = factors(number / radix, radix);
    if (others.empty() && number != radix) continue;
    if (found.empty() || others.size() + 1 <= found.size()) {
      found = {radix};
      found.insert(found.end(), others.begin(), others.end());
    }
  }
  return found;
}

}  // namespace

int RealFft::at_least(long size) {
  for (long even = std::max<long>(4, round_up(size, 2)); even <= kMostSize; even += 2) {
    if (!factors(int(even / 2)).empty()) return int(even);
  }
  return 0;
}

RealFft::RealFft(int size) : size(size) {
  const double step = -2 * std::acos(-1.0) / size;
  const auto root = [&](int k) { return Root{float(std::cos(step * k)), float(std::sin(step * k))}; };
  for (int k = 0; k < size; ++k) roots_.push_back(root(k));
  int length = size / 2, stride = 1;
  for (const int radix : factors(length)) {
    stages_.push_back({radix, length, stride, nullptr});
    for (int q = 0; q < length / radix; ++q) {
      for (int k = 0; k < radix; ++k) turns_.push_back(root(q * k * (size / length) % size));
    }
    length /= radix;
    stride *= radix;
  }
  const Root* turns = turns_.data();
  for (Stage& of : stages_) of.turns = turns, turns += of.length;
}

const RealFft& real_fft(int size) {
  static std::mutex mutex;
  static auto* const made = new std::map<int, std::unique_ptr<RealFft>>;
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<RealFft>& fft = (*made)[size];
  if (!fft) fft = std::make_unique<RealFft>(size);
  return *fft;
}

}  // namespace archcost
