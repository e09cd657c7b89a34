// Work in items without a call through a function object where there is one thread.
#pragma once

#include "threads.h"

namespace archcost {

// Floats that are worth a thread's while.
constexpr long kShare = 16384;

// item(index, worker) for each, as parallel_for does.
template <class Item>
void for_items(int threads, long items, const Item& item) {
  if (threads > 1 && items > 1) return parallel_for(threads, items, item);
  for (long index = 0; index < items; ++index) item(index, 0);
}

}  // namespace archcost
