// SPDX-License-Identifier: Apache-2.0
// Runs a model exported by export_c. Usage: main input.bin output.bin. The macros INPUTS and OUTPUTS are the
// numbers of float32 values in the two files.
#include <stdio.h>
#include <stdlib.h>

#include "tvm/runtime/c_backend_api.h"
#include "tvmgen_default.h"

int TVMBackendParallelLaunch(FTVMParallelLambda task, void* cdata, int num_task) {
  (void)num_task;
  TVMParallelGroupEnv env = {0, 1};
  return task(0, &env, cdata);
}

void* TVMBackendAllocWorkspace(int device_type, int device_id, uint64_t size, int code, int bits) {
  (void)device_type, (void)device_id, (void)code, (void)bits;
  return aligned_alloc(64, (size + 63) / 64 * 64);
}

int TVMBackendFreeWorkspace(int device_type, int device_id, void* pointer) {
  (void)device_type, (void)device_id;
  free(pointer);
  return 0;
}

// The generated objects call the runtime through these pointers, which their loader must define.
int (*__TVMBackendParallelLaunch)(FTVMParallelLambda, void*, int) = TVMBackendParallelLaunch;
void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = TVMBackendAllocWorkspace;
int (*__TVMBackendFreeWorkspace)(int, int, void*) = TVMBackendFreeWorkspace;

int main(int argc, char** argv) {
  static float input[INPUTS], output[OUTPUTS];
  if (argc != 3) return 2;
  FILE* file = fopen(argv[1], "rb");
  if (!file || fread(input, sizeof(float), INPUTS, file) != INPUTS) return 3;
  fclose(file);
  struct tvmgen_default_inputs inputs = {input};
  struct tvmgen_default_outputs outputs = {output};
  if (tvmgen_default_run(&inputs, &outputs) != 0) return 4;
  file = fopen(argv[2], "wb");
  if (!file || fwrite(output, sizeof(float), OUTPUTS, file) != OUTPUTS) return 5;
  return fclose(file);
}
