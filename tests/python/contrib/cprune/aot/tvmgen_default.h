// SPDX-License-Identifier: Apache-2.0
// The C interface of a model with one input named data and one output.
#ifndef CPRUNE_AOT_TVMGEN_DEFAULT_H_
#define CPRUNE_AOT_TVMGEN_DEFAULT_H_
#include <stdint.h>
struct tvmgen_default_inputs {
  void* data;
};
struct tvmgen_default_outputs {
  void* output;
};
int32_t tvmgen_default_run(struct tvmgen_default_inputs* inputs, struct tvmgen_default_outputs* outputs);
#endif
