#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build TVM's Android RPC app with one of the configurations in this folder, sign it, and install it with adb.
#
#   apps/android_rpc/install.sh cpu|gpu TVM_CHECKOUT
#
# Requires ANDROID_HOME, a JDK, gradle, adb, and TVM4J (`make jvminstall` in the checkout); see docs/android.md.
set -euo pipefail
if [ $# -ne 2 ] || { [ "$1" != cpu ] && [ "$1" != gpu ]; }; then
  sed -n '5p' "$0" | cut -c3- >&2
  exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
app="$2/apps/android_rpc"
[ -d "$app/app/src/main/jni" ] || { echo "$2 does not contain apps/android_rpc: expected a checkout of TVM v0.13 to v0.19" >&2; exit 1; }
[ -n "${ANDROID_HOME:-}" ] || { echo "ANDROID_HOME is not set: set it to the folder of the Android SDK" >&2; exit 1; }
if [ "$1" = gpu ] && { [ -z "${OPENCL_HEADERS:-}" ] || [ -z "${OPENCL_LIBRARY:-}" ]; }; then
  echo "OPENCL_HEADERS and OPENCL_LIBRARY must be set to the folder that contains CL/cl.h and to the phone's libOpenCL.so" >&2
  exit 1
fi
for tool in gradle adb; do
  command -v "$tool" >/dev/null || { echo "$tool is not installed or not on PATH" >&2; exit 1; }
done
cp "$here/$1_config.mk" "$app/app/src/main/jni/config.mk"
(cd "$app" && gradle clean build)
[ -f "$app/dev_tools/tvmrpc.keystore" ] || (cd "$app" && dev_tools/gen_keystore.sh)
(cd "$app" && dev_tools/sign_apk.sh)
adb install -r "$app/app/build/outputs/apk/release/tvmrpc-release.apk"
