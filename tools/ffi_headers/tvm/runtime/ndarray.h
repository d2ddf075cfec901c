// SPDX-License-Identifier: Apache-2.0
// See c_runtime_api.h. An NDArray handle points to its DLTensor, which follows the 16-byte object header.
#pragma once
#include <tvm/runtime/c_runtime_api.h>
namespace tvm {
namespace runtime {
inline void* TVMArrayHandleToObjectHandle(DLTensor* handle) { return reinterpret_cast<char*>(handle) - 16; }
}  // namespace runtime
}  // namespace tvm
