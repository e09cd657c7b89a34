// Whether memory is as it was: the weights of a program, and what Python and PyTorch keep of them and of a call.
#pragma once

#include <cstdint>

#include "program.h"

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
  const void* const* lines;  // of all that is read
  std::int64_t line_count;
  const std::uint64_t* const* tags;  // numbers that change whenever a dict does
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

struct ArchcostPart {
  std::int64_t first, count;  // bytes
};

// A call that was accepted, what has to be as it was for the next one to be, and the program that does both.
struct ArchcostCall {
  const ArchcostWatch* watches[3];  // those behind the last are null
  void* library;                    // PyTorch's, as dlopen gave it
  const char* keys_name;            // two numbers of each thread there: which dispatch keys are in and out
  std::uint64_t keys[2];
  std::int64_t (*function_modes)();
  bool (*records)();                // gradients
  const void* type;                 // of the argument, a Python object
  std::int64_t tensor;              // bytes from there to the at::Tensor
  const ArchcostPart* parts;        // of what that points to, which say what it is like
  std::int64_t part_count;
  const char* description;          // the parts one behind the other
  std::int32_t (*data_of)(const void* tensor, const void** data);
  int (*threads)();
  void* (*release)();               // the interpreter's lock, while the program runs
  void (*take)(void*);
  const ArchcostStep* steps;
  std::int64_t step_count;
};

std::uint64_t archcost_digest_of_tags(const std::uint64_t* const* tags, std::int64_t count);
std::uint64_t archcost_digest_of_elements(const ArchcostBytes* elements, std::int64_t count);
int archcost_watch(const ArchcostWatch* watch);
int archcost_same_call(const ArchcostCall* call, const void* argument);
int archcost_call(const ArchcostCall* call, const void* argument, float** bases, float* output);

}  // extern "C"
