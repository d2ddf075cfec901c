#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build TVM's Android RPC app with one of the configurations in this folder, sign it, and install it with adb.
#
#   apps/android_rpc/install.sh cpu|gpu TVM_CHECKOUT
#
# Requires ANDROID_HOME, a JDK, adb, gradle and the NDK's ndk-build, and TVM4J's core; see docs/android.md.
set -euo pipefail
if [ $# -ne 2 ] || { [ "$1" != cpu ] && [ "$1" != gpu ]; }; then
  sed -n '5p' "$0" | cut -c3- >&2
  exit 2
fi
fail() { echo "install.sh: $1" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
app="$2/apps/android_rpc"
[ -d "$app/app/src/main/jni" ] || fail "$2 does not contain apps/android_rpc: expected a checkout of TVM v0.13 to v0.19"
modules="dlpack dmlc-core"
[ "$1" = cpu ] || modules="$modules OpenCL-Headers"
for module in $modules; do
  [ -n "$(ls "$2/3rdparty/$module" 2>/dev/null)" ] ||
    fail "$2/3rdparty/$module is empty: run \`git submodule update --init\` in $2"
done
[ -f "$2/jvm/core/target/tvm4j-core-0.0.1-SNAPSHOT.jar" ] ||
  fail "TVM4J is not built: run \`mvn -pl core package -DskipTests -Dcheckstyle.skip=true\` in $2/jvm"
[ -n "${ANDROID_HOME:-}" ] || fail "ANDROID_HOME is not set: set it to the folder of the Android SDK"
for tool in javac keytool gradle ndk-build adb; do
  command -v "$tool" >/dev/null || fail "$tool is not installed or not on PATH"
done
apksigner=$(find "$ANDROID_HOME"/build-tools -name apksigner 2>/dev/null | sort -V | tail -n 1 || true)
[ -n "$apksigner" ] || fail "$ANDROID_HOME has no build tools: run \`sdkmanager 'build-tools;30.0.3'\`"
cp "$here/$1_config.mk" "$app/app/src/main/jni/config.mk"
(cd "$app" && gradle clean build)
[ -f "$app/dev_tools/tvmrpc.keystore" ] || (cd "$app" && dev_tools/gen_keystore.sh)
# TVM's dev_tools/sign_apk.sh signs with jarsigner (scheme v1). Android 11 and later reject that for this app, which
# targets API level 33: they require scheme v2.
apk="$app/app/build/outputs/apk/release"
"$apksigner" sign --ks "$app/dev_tools/tvmrpc.keystore" --ks-key-alias tvmrpc --out "$apk/tvmrpc-release.apk" \
  "$apk/app-release-unsigned.apk"
adb install -r "$apk/tvmrpc-release.apk"
