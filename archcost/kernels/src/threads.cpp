#include "threads.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace archcost {
namespace {

using Work = std::function<void(long, int)>;

// A worker that finds nothing to do looks this often before it sleeps: the next phase of the same
// convolution follows within microseconds, and waking a sleeper takes tens of them.
constexpr int kLooks = 4000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// What a compiler makes of `#pragma omp parallel`: in the runtimes of GNU, LLVM and Intel. Looked up in place
// of linked, for it to be the one that PyTorch uses.
using Region = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

Region openmp() {
  static const Region found = reinterpret_cast<Region>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
}

// The child of a fork has none of OpenMP's threads, and would wait for them.
const pid_t kLoadedBy = getpid();

struct Round {
  const Work& work;
  const long items;
  std::atomic<long> next_item{0};
  std::atomic<int> next_worker{0};

  static void take_part(void* data) {
    Round& round = *static_cast<Round*>(data);
    const int worker = round.next_worker.fetch_add(1);
    for (long item; (item = round.next_item.fetch_add(1)) < round.items;) round.work(item, worker);
  }
};

class Pool {
 public:
  explicit Pool(pid_t process) : process(process) {}

  void run(int threads, long items, const Work& work) {
    grow(threads - 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      items_ = items;
      next_item_ = 0;
      helpers_ = threads - 1;
      busy_ = threads - 1;
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_items(0);
    while (busy_.load(std::memory_order_acquire) != 0) pause();
  }

  const pid_t process;
  std::mutex in_use;

 private:
  void grow(int helpers) {
    while (int(workers_.size()) < helpers) {
      const int worker = int(workers_.size()) + 1;
      // Seen before the thread starts, so that it takes part in the round that is about to begin.
      workers_.emplace_back(&Pool::serve, this, worker, round_.load());
      workers_.back().detach();
    }
  }

  void serve(int worker, unsigned seen) {
    for (;;) {
      for (int look = 0; look < kLooks && round_.load(std::memory_order_acquire) == seen; ++look) pause();
      bool mine;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return round_.load() != seen; });
        seen = round_.load();
        mine = worker <= helpers_;
      }
      if (!mine) continue;
      take_items(worker);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  void take_items(int worker) {
    for (long item; (item = next_item_.fetch_add(1)) < items_;) (*work_)(item, worker);
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned> round_{0};
  std::atomic<int> busy_{0};
  std::atomic<long> next_item_{0};
  const Work* work_ = nullptr;
  long items_ = 0;
  int helpers_ = 0;
};

// Never destroyed: its threads sleep until the process ends. A forked child inherits no threads and so
// begins a pool of its own; the parent's is left alone, its lock may be held.
Pool& pool() {
  static std::mutex making;
  static std::atomic<Pool*> current{nullptr};
  Pool* found = current.load(std::memory_order_acquire);
  if (found && found->process == getpid()) return *found;
  std::lock_guard<std::mutex> lock(making);
  found = current.load();
  if (!found || found->process != getpid()) {
    found = new Pool(getpid());
    current.store(found, std::memory_order_release);
  }
  return *found;
}

thread_local bool inside = false;

}  // namespace

void parallel_for(int threads, long items, const Work& work) {
  threads = int(std::min<long>(threads, items));
  if (threads > 1 && !inside) {
    const Region region = openmp();
    if (region && getpid() == kLoadedBy) {
      Round round{work, items};
      region(Round::take_part, &round, unsigned(threads), 0);
      return;
    }
    Pool& all = pool();
    std::unique_lock<std::mutex> lock(all.in_use, std::try_to_lock);
    if (lock.owns_lock()) {
      inside = true;
      all.run(threads, items, work);
      inside = false;
      return;
    }
  }
  for (long item = 0; item < items; ++item) work(item, 0);
}

}  // namespace archcost
