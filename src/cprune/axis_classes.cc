// SPDX-License-Identifier: Apache-2.0
//
// Classes of the axes of a compute DAG that run over the same channels.
//
// Two axes belong to one class if the variable of one is, on its own, an index along the other. In
//   conv(n, y, x, f) = sum(ry, rx, c) pad(n, y + ry, x + rx, c) * weight(ry, rx, c, f)
// the reduction axis c, the last axis of pad and the third axis of weight form a class; f and the last axis
// of weight form another. The axes of a class change their extents together when channels are pruned.
#include <numeric>
#include <unordered_map>

#include "object.h"

namespace cprune {
namespace {

class UnionFind {
 public:
  int Add() {
    parent_.push_back(static_cast<int>(parent_.size()));
    return parent_.back();
  }
  int Find(int item) {
    while (parent_[item] != item) item = parent_[item] = parent_[parent_[item]];
    return item;
  }
  // Keeps the smaller root, so that the number of a class is that of its first axis.
  void Unite(int a, int b) {
    a = Find(a);
    b = Find(b);
    parent_[a > b ? a : b] = a > b ? b : a;
  }
  int size() const { return static_cast<int>(parent_.size()); }

 private:
  std::vector<int> parent_;
};

void PostOrderVisit(const Value& expr, const std::function<void(const Value&)>& visit) {
  static const Function post_order_visit("tir.PostOrderVisit");
  WithCallback(visit, [&](const Value& callback) { post_order_visit({expr, callback}); });
}

class AxisClasses {
 public:
  explicit AxisClasses(const std::vector<Value>& ops) {
    for (const Value& op : ops) AddOp(op);
    for (const Value& op : ops) {
      if (op.Is("ComputeOp")) LinkReads(op);
    }
  }

  std::vector<int64_t> Result() {
    std::vector<int64_t> classes(axes_.size());
    for (int i = 0; i < axes_.size(); ++i) classes[i] = axes_.Find(i);
    return classes;
  }

 private:
  void AddOp(const Value& op) {
    first_axis_[op.Address()] = axes_.size();
    if (op.Is("PlaceholderOp")) {
      const int64_t rank = op.Attr("shape").Size();
      for (int64_t i = 0; i < rank; ++i) axes_.Add();
    } else if (op.Is("ComputeOp")) {
      for (const char* field : {"axis", "reduce_axis"}) {
        for (const Value& axis : op.Attr(field).Elements())
          axis_of_var_[axis.Attr("var").Address()] = axes_.Add();
      }
    } else {
      throw Error("cprune.AxisClasses: cannot read " + op.TypeKey() +
                  "; expected te.compute or te.placeholder");
    }
  }

  void LinkReads(const Value& op) {
    for (const Value& expr : op.Attr("body").Elements()) {
      PostOrderVisit(expr, [&](const Value& node) {
        if (!node.Is("tir.ProducerLoad")) return;
        const auto producer = first_axis_.find(node.Attr("producer").Attr("op").Address());
        if (producer == first_axis_.end())
          throw Error("cprune.AxisClasses: an operation reads an operation that is not in the list");
        const std::vector<Value> indices = node.Attr("indices").Elements();
        for (size_t i = 0; i < indices.size(); ++i) {
          const auto axis = axis_of_var_.find(indices[i].Address());
          if (axis != axis_of_var_.end()) axes_.Unite(axis->second, producer->second + static_cast<int>(i));
        }
      });
    }
  }

  UnionFind axes_;
  std::unordered_map<const void*, int> first_axis_;
  std::unordered_map<const void*, int> axis_of_var_;
};

// (Array of te.Operation in any order) -> ShapeTuple with the class of each axis of each operation in turn.
// The axes of a placeholder are its dimensions, those of a compute operation its spatial and then its
// reduction axes.
Value GetAxisClasses(const std::vector<Value>& args) {
  CheckCount(args, 1, "cprune.AxisClasses(operations)");
  return MakeShapeTuple(AxisClasses(args[0].Elements()).Result());
}

const Registration axis_classes("cprune.AxisClasses", GetAxisClasses);

}  // namespace
}  // namespace cprune
