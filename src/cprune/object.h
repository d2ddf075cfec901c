// SPDX-License-Identifier: Apache-2.0
//
// Values that cross TVM's C API: counted references to objects, reflection on their fields, calls of global
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

// Anything that goes wrong. At the boundary it becomes TVM's last error, and so a Python exception with this
// message.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A TVM value: null, integer, string or a counted reference to an object.
class Value {
 public:
  Value() = default;
  Value(int64_t integer);   // NOLINT(runtime/explicit): arguments are written in place
  Value(const char* text);  // NOLINT(runtime/explicit)
  Value(const Value& other);
  Value(Value&& other) noexcept;
  Value& operator=(Value other) noexcept;
  ~Value();

  // A return value of the C API, whose reference passes to the result.
  static Value Take(TVMValue value, int code);
  // An argument of a packed function, which stays the caller's.
  static Value Borrow(TVMValue value, int code);

  bool IsNull() const { return code_ == kNull; }
  // Whether this is an object whose type key is `key`, such as "relay.Call".
  bool Is(const char* key) const;
  // The type key, or what kind of plain value this is.
  std::string TypeKey() const;
  int64_t AsInt() const;
  // A string or runtime.String.
  std::string AsString() const;
  // The object's address: equal for two references to the same object.
  const void* Address() const;

  // A field of an object, by TVM's reflection.
  Value Attr(const char* name) const;
  // Elements of an Array.
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

// A function from TVM's global registry; looked up once, when it is constructed.
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

// Calls `visit(node)` for each argument tuple that `call(callback)` passes to its callback.
void WithCallback(const std::function<void(const Value&)>& visit,
                  const std::function<void(const Value&)>& call);

// Makes Array, ShapeTuple and String values.
Value MakeArray(const std::vector<Value>& elements);
Value MakeShapeTuple(const std::vector<int64_t>& elements);
Value MakeString(const std::string& text);

// Registers `body` as a global function of TVM when it is constructed.
class Registration {
 public:
  using Body = Value (*)(const std::vector<Value>& args);
  Registration(const char* name, Body body);
};

// Throws Error unless `args` has `count` elements; `usage` names the function and what it takes.
void CheckCount(const std::vector<Value>& args, size_t count, const char* usage);

}  // namespace cprune
#endif  // CPRUNE_OBJECT_H_
