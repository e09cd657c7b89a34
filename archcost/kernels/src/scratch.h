// Working memory that outlives a call, since fresh pages cost more than the work done in them.
#pragma once

#include <cstddef>

namespace archcost {

// Borrows at least `floats` floats, aligned to a page, until it is destroyed. Their values are arbitrary.
class Scratch {
 public:
  explicit Scratch(std::size_t floats);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* data() const { return data_; }

 private:
  float* data_;
  std::size_t bytes_;
};

// What is kept for the next call.
std::size_t scratch_bytes_kept();
void release_scratch();

// Asks for huge pages: a transform writes to a hundred planes at once, more than the processor's table of
// small pages holds.
void prefer_huge_pages(void* data, std::size_t bytes);

}  // namespace archcost
