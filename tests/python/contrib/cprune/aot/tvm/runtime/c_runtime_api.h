// SPDX-License-Identifier: Apache-2.0
// The declarations of TVM's runtime headers that its generated C code uses.
#ifndef CPRUNE_AOT_C_RUNTIME_API_H_
#define CPRUNE_AOT_C_RUNTIME_API_H_
#include <stdint.h>
#define TVM_DLL
#endif
