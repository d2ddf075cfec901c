// SPDX-License-Identifier: Apache-2.0
// The part of TVM's C API that TVM's Cython sources use; TVM's wheel ships no headers.
#pragma once
#include <stddef.h>
#include <stdint.h>
typedef struct {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} DLDataType;
typedef struct {
  int device_type;
  int device_id;
} DLDevice;
typedef struct {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(struct DLManagedTensor* self);
} DLManagedTensor;
typedef union {
  int64_t v_int64;
  double v_float64;
  void* v_handle;
  const char* v_str;
  DLDataType v_type;
  DLDevice v_device;
} TVMValue;
extern "C" {
typedef int (*TVMPackedCFunc)(TVMValue*, int*, int, void*, void*);
void TVMAPISetLastError(const char*);
void TVMAPISetLastPythonError(void*);
const char* TVMGetLastError(void);
int TVMFuncGetGlobal(const char*, void**);
int TVMFuncCall(void*, TVMValue*, int*, int, TVMValue*, int*);
int TVMFuncFree(void*);
int TVMCFuncSetReturn(void*, TVMValue*, int*, int);
int TVMFuncCreateFromCFunc(TVMPackedCFunc, void*, void (*)(void*), void**);
int TVMCbArgToReturn(TVMValue*, int*);
int TVMArrayAlloc(const int64_t*, int, DLDataType, DLDevice, DLTensor**);
int TVMArrayFree(DLTensor*);
int TVMArrayCopyFromTo(DLTensor*, DLTensor*, void*);
int TVMArrayFromDLPack(DLManagedTensor*, DLTensor**);
int TVMArrayToDLPack(DLTensor*, DLManagedTensor**);
void TVMDLManagedTensorCallDeleter(DLManagedTensor*);
int TVMObjectFree(void*);
int TVMObjectRetain(void*);
int TVMObjectGetTypeIndex(void*, unsigned*);
}
