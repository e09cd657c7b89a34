// What is looked at before a call: every change is seen, and the program runs where there is none.
#include <dlfcn.h>
#include <netinet/in.h>

#include <memory>

#include "checking.h"
#include "watch.h"

namespace checking {
namespace {

constexpr int kType = 0, kOtherType = 0;  // of Python objects: their addresses count

// In PyTorch's place.
struct Inner {
  std::int64_t sizes[2];
  std::int64_t version;
  const float* data;
};
struct Object {
  std::int64_t references;
  const void* type;
  const Inner* tensor;
};
const Inner& inner(const void* tensor) { return **static_cast<const Inner* const*>(tensor); }
std::int64_t version_of(const void* tensor) { return inner(tensor).version; }
std::int32_t data_of(const void* tensor, const void** data) {
  *data = inner(tensor).data;
  return *data == nullptr;
}

std::int64_t modes = 0;
bool recording = false;
int locks = 1;
std::int64_t function_modes() { return modes; }
bool records() { return recording; }
int threads() { return 2; }
void* release() { return --locks, &locks; }
void take(void*) { ++locks; }
void doubled(const void*, float* const* places, int count) { places[1][0] = float(count) * places[0][0]; }

// Tags, and tensors with a few bytes of their elements each.
struct Watched {
  Watched() {
    for (int k = 0; k < 5; ++k) tags.push_back(std::make_unique<std::uint64_t>(generator()));
    for (auto& tag : tags) tag_places.push_back(tag.get());
    for (int k = 0; k < 3; ++k) {
      elements.push_back(std::make_unique<Floats>(random_floats(1 + 7 * k)));
      inners.push_back({{1, 1 + 7 * k}, k - 1, elements[k]->data()});
    }
    for (int k = 0; k < 3; ++k) {
      pointers.push_back(&inners[k]);
      bytes.push_back({reinterpret_cast<const char*>(inners[k].data), std::int64_t(4 * elements[k]->size())});
    }
    for (int k = 0; k < 3; ++k) tensors.push_back({&pointers[k], inners[k].version, inners[k].data});
    lines = {tag_places[0], pointers[1], inners[2].data};
    watch = {lines.data(), 3, tag_places.data(), 5, archcost_digest_of_tags(tag_places.data(), 5),
             tensors.data(), 3, version_of, data_of, bytes.data(), 3, archcost_digest_of_elements(bytes.data(), 3)};
  }

  std::vector<std::unique_ptr<std::uint64_t>> tags;
  std::vector<const std::uint64_t*> tag_places;
  std::vector<std::unique_ptr<Floats>> elements;
  std::vector<Inner> inners;
  std::vector<const Inner*> pointers;
  std::vector<ArchcostTensor> tensors;
  std::vector<ArchcostBytes> bytes;
  std::vector<const void*> lines;
  ArchcostWatch watch;
};

void expect(const char* what, long index, bool right) { report(what, index, right ? 0 : 1, 0); }

// Calls back with each change made, and takes it back.
template <class Seen>
void with_each_change(Watched& of, const Seen& seen) {
  for (long k = 0; k < 5; ++k) {
    *of.tags[k] += 1u << k;
    seen("a dict", k, 1);
    *of.tags[k] -= 1u << k;
  }
  for (long k = 1; k < 3; ++k) {  // the writes of the first are not counted
    ++of.inners[k].version;
    seen("a write", k, 2);
    --of.inners[k].version;
  }
  for (long k = 0; k < 3; ++k) {
    float& last = of.elements[k]->back();
    const float before = last;
    last += 1;
    seen("an element", k, 2);
    last = before;
    const float* const data = of.inners[k].data;
    for (const float* other : {static_cast<const float*>(nullptr), &before}) {
      of.inners[k].data = other;
      seen("an address", k, 2);
    }
    of.inners[k].data = data;
  }
}

void check_changes() {
  Watched of;
  expect("watched", 0, archcost_watch(&of.watch) == 0);
  with_each_change(of, [&](const char* what, long k, int kind) { expect(what, k, archcost_watch(&of.watch) == kind); });
  expect("watched", 1, archcost_watch(&of.watch) == 0);
}

void check_calls() {
  Watched of;
  Inner x = {{3, 4}, 0, nullptr};
  Floats values = {21};
  x.data = values.data();
  Object argument = {1, &kType, &x};
  const ArchcostPart parts[] = {{0, 8}, {8, 8}};
  const ArchcostPlace places[] = {{2, 0}, {3, 0}};
  const ArchcostStep step = {doubled, nullptr, places, 2};
  // Sixteen zeros of the C library stand for the dispatch keys.
  ArchcostCall call = {{&of.watch, nullptr, nullptr}, dlopen(nullptr, RTLD_LAZY), "in6addr_any", {0, 0},
                       function_modes, records, &kType, offsetof(Object, tensor), parts, 2,
                       reinterpret_cast<const char*>(x.sizes), data_of, threads, release, take, &step, 1};
  const std::int64_t sizes[] = {3, 4};
  call.description = reinterpret_cast<const char*>(sizes);
  const auto runs = [&] {
    float output = 0, *bases[4] = {};
    const int failure = archcost_call(&call, &argument, bases, &output);
    const bool done = failure == 0 && output == 42 && locks == 1;
    expect("a call", failure, (failure == -1 && output == 0) || done);
    return done;
  };
  expect("the same call", 0, runs() && archcost_same_call(&call, &argument));
  with_each_change(of, [&](const char* what, long k, int) { expect(what, k, !runs()); });
  argument.type = &kOtherType;
  expect("another type", 0, !runs());
  argument.type = &kType;
  for (std::int64_t& size : x.sizes) {
    ++size;
    expect("another size", size, !runs());
    --size;
  }
  modes = 1, expect("a mode", 0, !runs()), modes = 0;
  recording = true, expect("gradients", 0, !runs()), recording = false;
  call.keys[1] = 1, expect("dispatch keys", 0, !runs()), call.keys[1] = 0;
  expect("the same call", 1, runs());
}

}  // namespace

void check_watch() {
  check_changes();
  check_calls();
}

}  // namespace checking
