// Whether memory is as it was: the weights of a program, and the numbers that Python and PyTorch keep of them.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "export.h"

extern "C" {

// Bytes of one cache line.
struct ArchcostBytes {
  const char* first;
  std::int64_t count;  // at most kLine
};

struct ArchcostTensor {
  const void* tensor;    // an at::Tensor
  std::int64_t version;  // -1 where PyTorch does not count the writes
  const void* data;
};

struct ArchcostWatch {
  const void* const* lines;  // to fetch side by side, since all else looks at them one after the other
  std::int64_t line_count;
  const ArchcostBytes* tags;  // numbers that change whenever a dict does
  std::int64_t tag_count;
  std::uint64_t tag_digest;
  const ArchcostTensor* tensors;
  std::int64_t tensor_count;
  std::int64_t (*version_of)(const void* tensor);
  std::int32_t (*data_of)(const void* tensor, const void** data);
  const ArchcostBytes* elements;  // of the tensors, wherever they were
  std::int64_t element_count;
  std::uint64_t element_digest;
};

}  // extern "C"

namespace {

constexpr int kTagsChanged = 1, kTensorsChanged = 2;
constexpr std::int64_t kLine = 64;

// Any one word that changes changes the digest, since odd numbers can be divided by.
std::uint64_t digest(const ArchcostBytes* bytes, std::int64_t count) {
  constexpr std::uint64_t kOdd[8] = {0x9E3779B97F4A7C15u, 0xC2B2AE3D27D4EB4Fu, 0x165667B19E3779F9u,
                                     0x27D4EB2F165667C5u, 0xD6E8FEB86659FD93u, 0xA0761D6478BD642Fu,
                                     0xE7037ED1A0B428DBu, 0x8EBC6AF09C88C6E3u};
  std::uint64_t all = 1;
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint64_t words[8] = {};
    if (bytes[i].count == kLine) {
      std::memcpy(words, bytes[i].first, kLine);
    } else {
      std::memcpy(words, bytes[i].first, std::size_t(bytes[i].count));
    }
    std::uint64_t line = 0;
    for (int k = 0; k < 8; ++k) line += words[k] * kOdd[k];
    all = (all ^ line) * kOdd[0];
    all ^= all >> 29;
  }
  return all;
}

// Loads that need not wait for each other, where those of a digest would.
void touch(const ArchcostBytes* bytes, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) static_cast<void>(*static_cast<const volatile char*>(bytes[i].first));
}

bool tensors_hold(const ArchcostWatch& watch) {
  for (std::int64_t i = 0; i < watch.tensor_count; ++i) {
    const ArchcostTensor& one = watch.tensors[i];
    const void* data;
    if (watch.data_of(one.tensor, &data) || data != one.data) return false;
    if (one.version >= 0 && watch.version_of(one.tensor) != one.version) return false;
  }
  return true;
}

}  // namespace

ARCHCOST_EXPORT std::uint64_t archcost_digest(const ArchcostBytes* bytes, std::int64_t count) {
  return digest(bytes, count);
}

// The sum of kTagsChanged and kTensorsChanged. Elements are read only where tensors are where they were: those
// that somebody keeps alive.
ARCHCOST_EXPORT int archcost_watch(const ArchcostWatch* watch) {
  for (std::int64_t i = 0; i < watch->line_count; ++i) __builtin_prefetch(watch->lines[i]);
  const bool tags = digest(watch->tags, watch->tag_count) == watch->tag_digest;
  bool tensors = false;
  try {
    if (tensors_hold(*watch)) {
      touch(watch->elements, watch->element_count);
      tensors = digest(watch->elements, watch->element_count) == watch->element_digest;
    }
  } catch (...) {  // PyTorch's: it does not count the writes any more
  }
  return (tags ? 0 : kTagsChanged) | (tensors ? 0 : kTensorsChanged);
}
