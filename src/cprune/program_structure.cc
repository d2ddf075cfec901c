// SPDX-License-Identifier: Apache-2.0
//
// Which axes of a task's compute DAG run over the same channels.
//
// Two axes are of one class when one indexes a tensor along the other with nothing but its own variable: in
//   conv(n, y, x, f) = sum(ry, rx, c) pad(n, y + ry, x + rx, c) * weight(ry, rx, c, f)
// the reduction axis c, the last axis of pad and the third of weight are one class, f and the last of weight
// another. A class thus holds exactly the axes whose extents must change together when channels are pruned.
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
  // The smaller item stays the root, so that a class is named by its first axis.
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
                  "; expected te.compute and te.placeholder");
    }
  }

  void LinkReads(const Value& op) {
    for (const Value& expr : op.Attr("body").Elements()) {
      PostOrderVisit(expr, [&](const Value& node) {
        if (!node.Is("tir.ProducerLoad")) return;
        const auto producer = first_axis_.find(node.Attr("producer").Attr("op").Address());
        if (producer == first_axis_.end())
          throw Error("cprune.AxisClasses: an operation reads one that is not listed");
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

// (Array of te.Operation, producers or consumers first) -> ShapeTuple with a class number for each axis of
// each operation in turn: a placeholder's dimensions, or a compute operation's spatial and then reduction
// axes.
Value GetAxisClasses(const std::vector<Value>& args) {
  CheckCount(args, 1, "cprune.AxisClasses(operations)");
  return MakeShapeTuple(AxisClasses(args[0].Elements()).Result());
}

const Registration axis_classes("cprune.AxisClasses", GetAxisClasses);

}  // namespace
}  // namespace cprune
