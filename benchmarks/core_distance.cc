// SPDX-License-Identifier: Apache-2.0
// Print the nanoseconds that a cache line needs from one core to the next one and back.
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

namespace {

constexpr int kRoundTrips = 100000;
alignas(64) std::atomic<int> turn{0};

void PinTo(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  pthread_setaffinity_np(pthread_self(), sizeof(cores), &cores);
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
