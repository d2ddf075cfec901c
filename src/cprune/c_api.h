// SPDX-License-Identifier: Apache-2.0
//
// The part of TVM's C API that CPrune uses (include/tvm/runtime/c_runtime_api.h, v0.13 to v0.19). Declaring
// it here lets the plug-in build without TVM's headers and without linking to TVM.
#ifndef CPRUNE_C_API_H_
#define CPRUNE_C_API_H_

#include <cstdint>

extern "C" {
typedef union {
  int64_t v_int64;
  double v_float64;
  void* v_handle;
  const char* v_str;
} TVMValue;
typedef void* TVMHandle;
typedef int (*TVMPackedCFunc)(TVMValue* args, int* codes, int num_args, void* ret, void* resource);

int TVMFuncGetGlobal(const char* name, TVMHandle* out);
int TVMFuncCall(TVMHandle func, TVMValue* args, int* codes, int num_args, TVMValue* ret, int* ret_code);
int TVMFuncCreateFromCFunc(TVMPackedCFunc func, void* resource, void (*finalizer)(void*), TVMHandle* out);
int TVMFuncRegisterGlobal(const char* name, TVMHandle func, int override_existing);
int TVMFuncFree(TVMHandle func);
int TVMCFuncSetReturn(void* ret, TVMValue* value, int* code, int num_ret);
int TVMObjectGetTypeIndex(void* object, unsigned* out);
int TVMObjectTypeIndex2Key(unsigned index, char** out);
int TVMObjectRetain(void* object);
int TVMObjectFree(void* object);
void TVMAPISetLastError(const char* message);
const char* TVMGetLastError(void);
}

namespace cprune {

// The values of TVMArgTypeCode that CPrune can receive.
enum TypeCode : int {
  kInt = 0,
  kNull = 4,
  kObject = 8,
  kPackedFunc = 10,
  kStr = 11,
  kObjectRValueRef = 14,
};

}  // namespace cprune
#endif  // CPRUNE_C_API_H_
