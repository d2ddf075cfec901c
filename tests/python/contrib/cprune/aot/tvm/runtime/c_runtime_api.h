// SPDX-License-Identifier: Apache-2.0
// What TVM's generated C needs of its runtime's headers, and no more.
#ifndef CPRUNE_AOT_C_RUNTIME_API_H_
#define CPRUNE_AOT_C_RUNTIME_API_H_
#include <stdint.h>
#define TVM_DLL
#endif
