#include "watch.h"

#include <dlfcn.h>

#include <cstddef>
#include <cstring>

#include "export.h"

namespace {

constexpr int kTagsChanged = 1, kTensorsChanged = 2;
constexpr std::int64_t kLine = 64;

template <class T>
T at(const void* object, std::int64_t bytes) {
  T found;
  std::memcpy(&found, static_cast<const char*>(object) + bytes, sizeof found);
  return found;
}

std::uint64_t digest(const std::uint64_t* const* words, std::int64_t count) {
  std::uint64_t all = 1;
  for (std::int64_t i = 0; i < count; ++i) all = (all ^ *words[i]) * 0x9E3779B97F4A7C15u;
  return all;
}

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

ARCHCOST_EXPORT std::uint64_t archcost_digest_of_tags(const std::uint64_t* const* tags, std::int64_t count) {
  return digest(tags, count);
}

ARCHCOST_EXPORT std::uint64_t archcost_digest_of_elements(const ArchcostBytes* elements, std::int64_t count) {
  return digest(elements, count);
}

namespace {

// Side by side, since all else reads one after the other.
void fetch(const ArchcostWatch& watch) {
  for (std::int64_t i = 0; i < watch.line_count; ++i) __builtin_prefetch(watch.lines[i]);
}

int changes(const ArchcostWatch& watch) {
  const bool tags = digest(watch.tags, watch.tag_count) == watch.tag_digest;
  bool tensors = false;
  try {
    if (tensors_hold(watch)) {
      tensors = digest(watch.elements, watch.element_count) == watch.element_digest;
    }
  } catch (...) {  // PyTorch's: it does not count the writes any more
  }
  return (tags ? 0 : kTagsChanged) | (tensors ? 0 : kTensorsChanged);
}

bool keys_hold(const ArchcostCall& call) {
  static thread_local const void* keys = nullptr;
  if (!keys) keys = dlsym(call.library, call.keys_name);
  return keys && std::memcmp(keys, call.keys, sizeof call.keys) == 0;
}

bool like(const ArchcostCall& call, const void* argument) {
  constexpr std::int64_t kType = 8;  // behind the count of references
  if (at<const void*>(argument, kType) != call.type) return false;
  const char* const tensor = at<const char*>(argument, call.tensor);
  const char* expected = call.description;
  for (std::int64_t i = 0; i < call.part_count; ++i) {
    const ArchcostPart& part = call.parts[i];
    if (std::memcmp(tensor + part.first, expected, std::size_t(part.count)) != 0) return false;
    expected += part.count;
  }
  return true;
}

}  // namespace

// The sum of kTagsChanged and kTensorsChanged. Elements are read only where tensors are where they were: those
// that somebody keeps alive.
ARCHCOST_EXPORT int archcost_watch(const ArchcostWatch* watch) {
  fetch(*watch);
  return changes(*watch);
}

// Whether the argument, a tensor, is like that of the call, and all else as it was then.
ARCHCOST_EXPORT int archcost_same_call(const ArchcostCall* call, const void* argument) {
  if (!like(*call, argument)) return 0;
  for (const ArchcostWatch* one : call->watches) {
    if (one) fetch(*one);
  }
  if (!keys_hold(*call) || call->function_modes() || call->records()) return 0;
  for (const ArchcostWatch* one : call->watches) {
    if (one && changes(*one)) return 0;
  }
  return 1;
}

ARCHCOST_EXPORT int archcost_run(const ArchcostStep* steps, std::int64_t count, float* const* bases,
                                 std::int64_t threads, std::int64_t* nanoseconds);

// The program, where `archcost_same_call`. Returns what `archcost_run` does, and -1 where nothing was run.
// `bases`: the arena, weights, and then the argument and the output, which are put in.
ARCHCOST_EXPORT int archcost_call(const ArchcostCall* call, const void* argument, float** bases, float* output) {
  const void* const tensor = static_cast<const char*>(argument) + call->tensor;
  const void* data;
  if (!archcost_same_call(call, argument) || call->data_of(tensor, &data)) return -1;
  bases[2] = static_cast<float*>(const_cast<void*>(data));
  bases[3] = output;
  void* const state = call->release();
  const int failure = archcost_run(call->steps, call->step_count, bases, call->threads(), nullptr);
  call->take(state);
  return failure;
}
