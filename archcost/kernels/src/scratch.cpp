#include "scratch.h"

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace archcost {
namespace {

constexpr std::size_t kHugePage = std::size_t(1) << 21;
constexpr std::size_t kMostKept = 4;

struct Kept {
  float* data;
  std::size_t bytes;
};

std::mutex& lock_of_kept() {
  static std::mutex mutex;
  return mutex;
}

std::vector<Kept>& kept() {
  static auto* all = new std::vector<Kept>;
  return *all;
}

}  // namespace

void prefer_huge_pages(void* data, std::size_t bytes) {
#if defined(__linux__)
  const std::uintptr_t begin = (std::uintptr_t(data) + kHugePage - 1) / kHugePage * kHugePage;
  const std::uintptr_t end = (std::uintptr_t(data) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

Scratch::Scratch(std::size_t floats) {
  bytes_ = (floats * sizeof(float) + kHugePage - 1) / kHugePage * kHugePage;
  {
    std::lock_guard<std::mutex> lock(lock_of_kept());
    std::vector<Kept>& all = kept();
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i].bytes < bytes_) continue;
      data_ = all[i].data;
      bytes_ = all[i].bytes;
      all.erase(all.begin() + i);
      return;
    }
  }
  data_ = static_cast<float*>(std::aligned_alloc(kHugePage, bytes_));
  if (!data_) throw std::bad_alloc();
  prefer_huge_pages(data_, bytes_);
}

// The smallest one gives way when there are too many.
Scratch::~Scratch() {
  std::lock_guard<std::mutex> lock(lock_of_kept());
  std::vector<Kept>& all = kept();
  all.push_back({data_, bytes_});
  if (all.size() <= kMostKept) return;
  std::size_t least = 0;
  for (std::size_t i = 1; i < all.size(); ++i) {
    if (all[i].bytes < all[least].bytes) least = i;
  }
  std::free(all[least].data);
  all.erase(all.begin() + least);
}

std::size_t scratch_bytes_kept() {
  std::lock_guard<std::mutex> lock(lock_of_kept());
  std::size_t sum = 0;
  for (const Kept& one : kept()) sum += one.bytes;
  return sum;
}

void release_scratch() {
  std::lock_guard<std::mutex> lock(lock_of_kept());
  for (const Kept& one : kept()) std::free(one.data);
  kept().clear();
}

}  // namespace archcost
