# SPDX-License-Identifier: Apache-2.0
# Configuration of TVM's Android RPC app for OpenCL. install.sh copies it into a TVM checkout, to
# apps/android_rpc/app/src/main/jni/config.mk.
# OPENCL_HEADERS: folder that contains CL/cl.h. OPENCL_LIBRARY: the phone's libOpenCL.so, from
# `adb pull /vendor/lib64/libOpenCL.so`.
APP_ABI = arm64-v8a
APP_PLATFORM = android-24
USE_OPENCL = 1
USE_VULKAN = 0
USE_SORT = 1
USE_RANDOM = 1
ADD_C_INCLUDES = $(OPENCL_HEADERS)
ADD_LDLIBS = $(OPENCL_LIBRARY)
