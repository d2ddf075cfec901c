// SPDX-License-Identifier: Apache-2.0
// Print the nanoseconds that a cache line needs from one core to the next one and back.
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {

constexpr int kRoundTrips = 100000;
alignas(64) std::atomic<int> turn{0};

// Pin the calling thread to the n-th core that this process may use.
void PinTo(int n) {
  cpu_set_t allowed, one;
  CPU_ZERO(&one);
  int core = -1;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
    for (int i = 0; i < CPU_SETSIZE && core < 0; ++i) {
      if (CPU_ISSET(i, &allowed) && n-- == 0) core = i;
    }
  }
  if (core >= 0) CPU_SET(core, &one);
  if (core < 0 || pthread_setaffinity_np(pthread_self(), sizeof(one), &one) != 0) {
    std::fprintf(stderr, "cannot run on two cores\n");
    std::exit(1);
  }
}

void PlayTurns(int first) {
  for (int value = first; value < 2 * kRoundTrips; value += 2) {
    while (turn.load(std::memory_order_acquire) != value) {
    }
    turn.store(value + 1, std::memory_order_release);
  }
}

}  // namespace

int main() {
  // Each thread inherits the cores of the one that starts it: start the other one first.
  std::thread other([] {
    PinTo(1);
    PlayTurns(1);
  });
  PinTo(0);
  const auto started = std::chrono::steady_clock::now();
  PlayTurns(0);
  other.join();
  const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - started;
  std::printf("%.0f\n", elapsed.count() / kRoundTrips);
  return 0;
}
