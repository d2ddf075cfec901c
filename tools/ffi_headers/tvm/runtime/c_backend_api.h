// SPDX-License-Identifier: Apache-2.0
// See c_runtime_api.h.
#pragma once
extern "C" int TVMBackendRegisterEnvCAPI(const char*, void*);
