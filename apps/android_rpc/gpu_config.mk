# SPDX-License-Identifier: Apache-2.0
# Configuration of TVM's Android RPC app for OpenCL. install.sh copies it into a TVM checkout, to
# apps/android_rpc/app/src/main/jni/config.mk.
# The app opens the phone's libOpenCL.so when it starts, so that it is not linked here. Its headers are a submodule of
# TVM, 3rdparty/OpenCL-Headers.
APP_ABI = arm64-v8a
APP_PLATFORM = android-24
USE_OPENCL = 1
USE_VULKAN = 0
USE_SORT = 1
USE_RANDOM = 1
ADD_C_INCLUDES =
ADD_LDLIBS =
