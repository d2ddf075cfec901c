# SPDX-License-Identifier: Apache-2.0
# TVM's Android RPC app for OpenCL: copied to apps/android_rpc/app/src/main/jni/config.mk of a TVM checkout.
# OPENCL_HEADERS holds CL/cl.h; libOpenCL.so is the phone's own (adb pull /vendor/lib64/libOpenCL.so).
APP_ABI = arm64-v8a
APP_PLATFORM = android-24
USE_OPENCL = 1
USE_VULKAN = 0
USE_SORT = 1
USE_RANDOM = 1
ADD_C_INCLUDES = $(OPENCL_HEADERS)
ADD_LDLIBS = $(OPENCL_LIBRARY)
