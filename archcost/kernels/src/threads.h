// The threads of PyTorch's own OpenMP where the process has them: after a parallel region its workers wait
// for the next one without sleeping, and would keep the processors from a second pool. Else a small pool.
#pragma once

#include <functional>

namespace archcost {

// Calls work(item, worker) for every item from 0 to items - 1, on up to `threads` threads, of which the caller
// is worker 0; items go to whoever is free. A call from inside another, or while another thread of the
// process has the pool, runs on the caller alone.
void parallel_for(int threads, long items, const std::function<void(long item, int worker)>& work);

}  // namespace archcost
