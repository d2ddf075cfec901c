// SPDX-License-Identifier: Apache-2.0
//
// Wrappers of TVM's C API: reference-counted values, reflection on the fields of objects, and calls of global
// functions.
#ifndef CPRUNE_OBJECT_H_
#define CPRUNE_OBJECT_H_

#include <functional>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "c_api.h"

namespace cprune {

// An error of the plug-in. At the boundary to TVM it becomes TVM's last error, and thus a Python exception
// with the same message.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A TVM value: null, an integer, a string or a reference-counted object.
class Value {
 public:
  Value() = default;
  Value(int64_t integer);   // NOLINT(runtime/explicit): allows literals as arguments
  Value(const char* text);  // NOLINT(runtime/explicit)
  Value(const Value& other);
  Value(Value&& other) noexcept;
  Value& operator=(Value other) noexcept;
  ~Value();

  // Wraps a return value of the C API and takes over its reference.
  static Value Take(TVMValue value, int code);
  // Wraps an argument of a packed function, whose reference remains the caller's.
  static Value Borrow(TVMValue value, int code);

  bool IsNull() const { return code_ == kNull; }
  // Returns whether this is an object with type key `key`, such as "relay.Call".
  bool Is(const char* key) const;
  // Returns the type key of an object, or the kind of a plain value.
  std::string TypeKey() const;
  int64_t AsInt() const;
  // Returns the value of a string or runtime.String.
  std::string AsString() const;
  // Returns the object's address, which is equal for references to the same object.
  const void* Address() const;

  // Returns a field of an object through TVM's reflection.
  Value Attr(const char* name) const;
  // Access to the elements of an Array.
  int64_t Size() const;
  Value At(int64_t index) const;
  std::vector<Value> Elements() const;

  TVMValue raw() const;
  int code() const { return code_; }

 private:
  TVMValue value_{};
  int code_ = kNull;
  std::string text_;
};

// A function of TVM's global registry. The constructor looks it up.
class Function {
 public:
  explicit Function(const char* name);
  Value operator()(std::initializer_list<Value> args) const { return Call(args.begin(), args.size()); }
  Value operator()(const std::vector<Value>& args) const { return Call(args.data(), args.size()); }

 private:
  Value Call(const Value* args, size_t count) const;
  const char* name_;
  TVMHandle handle_ = nullptr;
};

// Runs `call(callback)` with a TVM function `callback` that forwards its first argument to `visit`.
void WithCallback(const std::function<void(const Value&)>& visit,
                  const std::function<void(const Value&)>& call);

// Create Array, ShapeTuple and String values.
Value MakeArray(const std::vector<Value>& elements);
Value MakeShapeTuple(const std::vector<int64_t>& elements);
Value MakeString(const std::string& text);

// The constructor registers `body` as a global function of TVM.
class Registration {
 public:
  using Body = Value (*)(const std::vector<Value>& args);
  Registration(const char* name, Body body);
};

// Throws Error unless `args` has `count` elements. `usage` is the function with its parameters.
void CheckCount(const std::vector<Value>& args, size_t count, const char* usage);

}  // namespace cprune
#endif  // CPRUNE_OBJECT_H_
