#pragma once

#include <cstdint>
#include <memory>
#include <optional>

namespace tcast {

/// Threads that this process may really use: its affinity mask, cut by the quota of its control
/// groups (a container with two cpus of a machine with a hundred gets two). A quota of 1.5 cpus is
/// worth one thread: two would each stop for a part of every period, and each waits for the other.
int available_threads();

/// What a quota leaves of a number of threads: at least one.
int threads_within(int threads, std::optional<double> quota_cpus);

/// Sets how many threads the kernels that the calling thread makes and runs from now on use,
/// oneDNN's among them. They share one pool, that of libgomp, which libdnnl links: two pools on the
/// same cores would fight.
void set_threads(int threads);

/// The number set by set_threads, or the pool's own default.
int current_threads();

/// Calls body(context, thread) once on each of `threads` threads of the pool, 0 <= thread <
/// `threads`, and returns when all are done; one of the exceptions thrown, if any, comes out.
void run_on_threads(int threads, void (*body)(void* context, int thread), void* context);

/// Cuts 0..count into one contiguous range per thread, at least `grain` long, and calls
/// body(begin, end, thread) for each; on the calling thread alone when one range is all there is.
template <class Body>
void parallel_ranges(std::int64_t count, std::int64_t grain, const Body& body) {
  if (count <= 0) return;
  std::int64_t parts = current_threads();
  if (grain > 1 && count / grain < parts) parts = count / grain > 0 ? count / grain : 1;
  if (count < parts) parts = count;
  if (parts <= 1) {
    body(std::int64_t{0}, count, 0);
    return;
  }
  struct Context {
    const Body* body;
    std::int64_t count;
    std::int64_t parts;
  } context{&body, count, parts};
  run_on_threads(
      static_cast<int>(parts),
      [](void* pointer, int thread) {
        const Context& c = *static_cast<Context*>(pointer);
        (*c.body)(c.count * thread / c.parts, c.count * (thread + 1) / c.parts, thread);
      },
      &context);
}

}  // namespace tcast
