// SPDX-License-Identifier: Apache-2.0
#include "object.h"

#include <cstring>
#include <utility>

namespace cprune {
namespace {

void Check(int failed, const std::string& what) {
  if (failed) throw Error(what + ": " + TVMGetLastError());
}

// Runs `body` and returns the status that the C API requires: 0, or -1 with TVM's last error set.
template <typename F>
int Guard(F body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    TVMAPISetLastError(error.what());
    return -1;
  }
}

int CallVisitor(TVMValue* args, int* codes, int count, void*, void* resource) {
  return Guard([&] {
    const auto& visit = *static_cast<const std::function<void(const Value&)>*>(resource);
    if (count > 0) visit(Value::Borrow(args[0], codes[0]));
  });
}

int CallBody(TVMValue* args, int* codes, int count, void* ret, void* resource) {
  return Guard([&] {
    std::vector<Value> values;
    values.reserve(count);
    for (int i = 0; i < count; ++i) values.push_back(Value::Borrow(args[i], codes[i]));
    Value result = reinterpret_cast<Registration::Body>(resource)(values);
    TVMValue raw = result.raw();
    int code = result.code();
    Check(TVMCFuncSetReturn(ret, &raw, &code, 1), "cannot return a value");
  });
}

}  // namespace

Value::Value(int64_t integer) : code_(kInt) { value_.v_int64 = integer; }

Value::Value(const char* text) : code_(kStr), text_(text) {}

Value::Value(const Value& other) : value_(other.value_), code_(other.code_), text_(other.text_) {
  if (code_ == kObject) TVMObjectRetain(value_.v_handle);
}

Value::Value(Value&& other) noexcept
    : value_(other.value_), code_(other.code_), text_(std::move(other.text_)) {
  other.code_ = kNull;
}

Value& Value::operator=(Value other) noexcept {
  std::swap(value_, other.value_);
  std::swap(code_, other.code_);
  text_.swap(other.text_);
  return *this;
}

Value::~Value() {
  if (code_ == kObject) TVMObjectFree(value_.v_handle);
}

Value Value::Take(TVMValue value, int code) {
  Value result;
  result.value_ = value;
  result.code_ = code;
  if (code == kStr) result.text_ = value.v_str;
  return result;
}

Value Value::Borrow(TVMValue value, int code) {
  if (code == kObjectRValueRef) {  // The value is a pointer to the handle.
    value.v_handle = *static_cast<void**>(value.v_handle);
    code = kObject;
  }
  if (code == kObject) TVMObjectRetain(value.v_handle);
  return Take(value, code);
}

std::string Value::TypeKey() const {
  if (code_ != kObject)
    return code_ == kInt ? "int" : code_ == kStr ? "str" : "type code " + std::to_string(code_);
  unsigned index = 0;
  char* key = nullptr;
  Check(TVMObjectGetTypeIndex(value_.v_handle, &index), "cannot determine the type of an object");
  Check(TVMObjectTypeIndex2Key(index, &key), "cannot determine the type of an object");
  return key;
}

bool Value::Is(const char* key) const { return code_ == kObject && TypeKey() == key; }

int64_t Value::AsInt() const {
  if (code_ == kInt) return value_.v_int64;
  if (Is("IntImm")) return Attr("value").AsInt();
  throw Error("expected an integer, got " + TypeKey());
}

std::string Value::AsString() const {
  if (code_ == kStr) return text_;
  if (!Is("runtime.String")) throw Error("expected a string, got " + TypeKey());
  static const Function to_str("runtime.GetFFIString");
  return to_str({*this}).AsString();
}

const void* Value::Address() const {
  if (code_ != kObject) throw Error("expected an object, got " + TypeKey());
  return value_.v_handle;
}

Value Value::Attr(const char* name) const {
  if (code_ != kObject) throw Error(std::string("cannot read field ") + name + " of " + TypeKey());
  static const Function get_attr("node.NodeGetAttr");
  return get_attr({*this, name});
}

int64_t Value::Size() const {
  static const Function size("runtime.ArraySize");
  return size({*this}).AsInt();
}

Value Value::At(int64_t index) const {
  static const Function get_item("runtime.ArrayGetItem");
  return get_item({*this, index});
}

std::vector<Value> Value::Elements() const {
  std::vector<Value> elements;
  const int64_t size = Size();
  elements.reserve(size);
  for (int64_t i = 0; i < size; ++i) elements.push_back(At(i));
  return elements;
}

TVMValue Value::raw() const {
  TVMValue raw = value_;
  if (code_ == kStr) raw.v_str = text_.c_str();
  return raw;
}

Function::Function(const char* name) : name_(name) {
  Check(TVMFuncGetGlobal(name, &handle_), std::string("cannot look up ") + name);
  if (handle_ == nullptr) throw Error(std::string("TVM has no function ") + name);
}

Value Function::Call(const Value* args, size_t count) const {
  std::vector<TVMValue> values(count);
  std::vector<int> codes(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = args[i].raw();
    codes[i] = args[i].code();
  }
  TVMValue result{};
  int code = kNull;
  Check(TVMFuncCall(handle_, values.data(), codes.data(), static_cast<int>(count), &result, &code), name_);
  return Value::Take(result, code);
}

void WithCallback(const std::function<void(const Value&)>& visit,
                  const std::function<void(const Value&)>& call) {
  TVMHandle handle = nullptr;
  void* resource = const_cast<std::function<void(const Value&)>*>(&visit);
  Check(TVMFuncCreateFromCFunc(CallVisitor, resource, nullptr, &handle), "cannot create a callback");
  struct Free {
    TVMHandle handle;
    ~Free() { TVMFuncFree(handle); }
  } free{handle};
  TVMValue raw{};
  raw.v_handle = handle;
  call(Value::Take(raw, kPackedFunc));
}

Value MakeArray(const std::vector<Value>& elements) {
  static const Function make("runtime.Array");
  return make(elements);
}

Value MakeShapeTuple(const std::vector<int64_t>& elements) {
  static const Function make("runtime.ShapeTuple");
  return make(std::vector<Value>(elements.begin(), elements.end()));
}

Value MakeString(const std::string& text) {
  static const Function make("runtime.String");
  return make({Value(text.c_str())});
}

Registration::Registration(const char* name, Body body) {
  TVMHandle handle = nullptr;
  if (TVMFuncCreateFromCFunc(CallBody, reinterpret_cast<void*>(body), nullptr, &handle) == 0) {
    TVMFuncRegisterGlobal(name, handle, 1);
  }
}

void CheckCount(const std::vector<Value>& args, size_t count, const char* usage) {
  if (args.size() != count) {
    throw Error(std::string(usage) + ": got " + std::to_string(args.size()) + " arguments");
  }
}

}  // namespace cprune
