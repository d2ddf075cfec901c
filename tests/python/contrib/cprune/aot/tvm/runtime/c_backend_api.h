// SPDX-License-Identifier: Apache-2.0
#ifndef CPRUNE_AOT_C_BACKEND_API_H_
#define CPRUNE_AOT_C_BACKEND_API_H_
#include "tvm/runtime/c_runtime_api.h"
typedef struct {
  void* sync_handle;
  int32_t num_task;
} TVMParallelGroupEnv;
typedef int (*FTVMParallelLambda)(int task_id, TVMParallelGroupEnv* env, void* cdata);
int TVMBackendParallelLaunch(FTVMParallelLambda task, void* cdata, int num_task);
void* TVMBackendAllocWorkspace(int device_type, int device_id, uint64_t size, int code, int bits);
int TVMBackendFreeWorkspace(int device_type, int device_id, void* pointer);
#endif
