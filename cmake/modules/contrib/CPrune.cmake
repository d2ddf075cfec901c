# SPDX-License-Identifier: Apache-2.0
#
# CPrune's C++ sources, for two builds:
#   the plug-in        include()d by this repository's CMakeLists.txt, it defines CPRUNE_SRCS
#   TVM's own build    cmake -S tvm -B build -DCMAKE_PROJECT_tvm_INCLUDE=<here>/cmake/modules/contrib/CPrune.cmake
#                      -DUSE_CPRUNE=ON adds them to libtvm; no file of TVM is edited

option(USE_CPRUNE "Build CPrune, compiler-informed model pruning" ON)

get_filename_component(CPRUNE_ROOT "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
file(GLOB CPRUNE_SRCS CONFIGURE_DEPENDS "${CPRUNE_ROOT}/src/cprune/*.cc")

if(USE_CPRUNE AND PROJECT_NAME STREQUAL "tvm")
  # TVM's targets do not exist yet when this file is read: add the sources at the end of its CMakeLists.txt.
  cmake_language(DEFER CALL target_sources tvm_objs PRIVATE ${CPRUNE_SRCS})
  message(STATUS "Build with CPrune")
endif()
