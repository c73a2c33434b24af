#include <atomic>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/exec/threads.h"

using namespace tcast;

TEST_CASE("ranges cover everything once, whatever the numbers") {
  const int before = current_threads();
  for (const int threads : {1, 2, 3, 7}) {
    set_threads(threads);
    CHECK(current_threads() == threads);
    for (const std::int64_t count : {0, 1, 2, 5, 100}) {
      for (const std::int64_t grain : {0, 1, 3, 1000}) {
        CAPTURE(threads);
        CAPTURE(count);
        CAPTURE(grain);
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
        std::vector<std::atomic<int>> used(static_cast<std::size_t>(threads));
        parallel_ranges(count, grain, [&](std::int64_t begin, std::int64_t end, int thread) {
          ++used.at(static_cast<std::size_t>(thread));
          for (std::int64_t i = begin; i < end; ++i) ++seen.at(static_cast<std::size_t>(i));
        });
        for (const auto& times : seen) CHECK(times == 1);
        for (const auto& times : used) CHECK(times <= 1);
        if (grain == 1000 && count > 0) CHECK(used[0] == 1);
      }
    }
  }
  set_threads(before);
}

TEST_CASE("ranges inside ranges run on the thread that asks") {
  const int before = current_threads();
  set_threads(3);
  std::atomic<int> calls{0};
  parallel_ranges(3, 1, [&](std::int64_t, std::int64_t, int) {
    parallel_ranges(5, 1, [&](std::int64_t begin, std::int64_t end, int) {
      calls += static_cast<int>(end - begin);
    });
  });
  CHECK(calls == 15);
  set_threads(before);
}

TEST_CASE("an exception in a thread comes out") {
  const int before = current_threads();
  set_threads(4);
  CHECK_THROWS_WITH_AS(parallel_ranges(4, 1,
                                       [](std::int64_t begin, std::int64_t, int) {
                                         if (begin == 2) throw Error("two");
                                       }),
                       "two", Error);
  set_threads(before);
}

TEST_CASE("there is at least one thread") {
  CHECK(available_threads() >= 1);
  set_threads(0);
  CHECK(current_threads() == 1);
  set_threads(available_threads());
}
