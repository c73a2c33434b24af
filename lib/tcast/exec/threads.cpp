#include "tcast/exec/threads.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <mutex>
#include <thread>

#include <sched.h>

#include "tcast/exec/control_group.h"

// The runtime of libgomp, by its documented entry points instead of pragmas: the same pool as
// libdnnl's whichever compiler builds tcast (clang's -fopenmp would bring a pool of its own).
extern "C" {
// NOLINTNEXTLINE(readability-identifier-naming): libgomp's own name
void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags);
int omp_get_thread_num(void);
int omp_get_num_threads(void);
int omp_get_max_threads(void);
void omp_set_num_threads(int threads);
}

namespace tcast {
int available_threads() {
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) threads = std::max(1, CPU_COUNT(&set));
  return threads_within(threads, group_limits().cpus);
}

int threads_within(int threads, std::optional<double> quota_cpus) {
  if (!quota_cpus || *quota_cpus >= threads) return threads;
  return std::max(1, static_cast<int>(std::floor(*quota_cpus)));
}

void set_threads(int threads) { omp_set_num_threads(std::max(1, threads)); }

int current_threads() { return omp_get_max_threads(); }

void run_on_threads(int threads, void (*body)(void* context, int thread), void* context) {
  if (threads <= 1) {
    body(context, 0);
    return;
  }
  struct Shared {
    void (*body)(void*, int);
    void* context;
    int threads;
    std::mutex mutex;
    std::exception_ptr failure;
  } shared{body, context, threads, {}, {}};
  GOMP_parallel(
      [](void* pointer) {
        Shared& s = *static_cast<Shared*>(pointer);
        // The runtime may grant fewer threads than asked for (a nested region gets one).
        const int granted = omp_get_num_threads();
        try {
          for (int i = omp_get_thread_num(); i < s.threads; i += granted) s.body(s.context, i);
        } catch (...) {
          const std::lock_guard<std::mutex> lock(s.mutex);
          s.failure = std::current_exception();
        }
      },
      &shared, static_cast<unsigned>(threads), 0);
  if (shared.failure) std::rethrow_exception(shared.failure);
}

}  // namespace tcast
