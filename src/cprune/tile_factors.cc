// SPDX-License-Identifier: Apache-2.0
//
// Tile factors of a loop nest, independent of what scheduled it: the loops along each dimension of the
// buffers that an anchor accesses.
//
// An anchor is a store that accumulates into its own buffer. Its indices are functions of the surrounding
// loops. Each loop is evaluated with all others at zero. If an index takes the n values 0, s, 2s, and so on,
// the loop has n steps of stride s along that dimension, even if it was fused with loops over others.
#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "index_expr.h"
#include "object.h"

namespace cprune {
namespace {

struct Loop {
  std::string name;
  int64_t extent;
  std::string kind;
};

class Reader {
 public:
  void Visit(const Value& node) {
    if (node.IsNull()) return;
    const std::string type = node.TypeKey();
    if (type == "tir.For") {
      VisitLoop(node);
    } else if (type == "tir.AttrStmt") {
      VisitAttr(node);
    } else if (type == "tir.SeqStmt") {
      for (const Value& statement : node.Attr("seq").Elements()) Visit(statement);
    } else if (type == "tir.IfThenElse") {
      Visit(node.Attr("then_case"));
      Visit(node.Attr("else_case"));
    } else if (type == "tir.BlockRealize") {
      VisitBlock(node);
    } else if (type == "tir.LetStmt") {
      loop_of_var_[node.Attr("var").Address()] = Read(node.Attr("value"));
      Visit(node.Attr("body"));
    } else if (type == "tir.BufferRealize" || type == "tir.ProducerRealize" || type == "tir.Allocate" ||
               type == "tir.DeclBuffer" || type == "tir.AssertStmt") {
      Visit(node.Attr("body"));
    } else if (type == "tir.BufferStore") {
      VisitStore(node);
    }
  }

  Value Result() const { return MakeArray(anchors_); }

 private:
  void Within(const Value& var, const Loop& loop, const Value& body) {
    loop_of_var_[var.Address()] =
        std::make_shared<Expr>(Expr{Expr::kLoop, static_cast<int64_t>(loops_.size()), nullptr, nullptr});
    loops_.push_back(loop);
    live_.push_back(loops_.size() - 1);
    Visit(body);
    live_.pop_back();
  }

  void VisitLoop(const Value& node) {
    static const char* const kinds[] = {"serial", "parallel", "vectorized", "unrolled", "thread"};
    const int64_t kind = node.Attr("kind").AsInt();
    std::string name = kind >= 0 && kind < 5 ? kinds[kind] : "serial";
    const Value binding = node.Attr("thread_binding");
    if (!binding.IsNull()) name = binding.Attr("thread_tag").AsString();
    const Value var = node.Attr("loop_var");
    Within(var, {var.Attr("name").AsString(), Constant(node.Attr("extent")), name}, node.Attr("body"));
  }

  void VisitAttr(const Value& node) {
    const std::string key = node.Attr("attr_key").AsString();
    if (key != "thread_extent" && key != "virtual_thread") {
      Visit(node.Attr("body"));
      return;
    }
    const Value axis = node.Attr("node");
    const Value var = axis.Attr("var");
    const std::string tag = key == "virtual_thread" ? "vthread" : axis.Attr("thread_tag").AsString();
    if (loop_of_var_.count(var.Address())) {  // The thread was bound around an outer stage.
      Visit(node.Attr("body"));
      return;
    }
    Within(var, {var.Attr("name").AsString(), Constant(node.Attr("value")), tag}, node.Attr("body"));
  }

  void VisitBlock(const Value& node) {
    const Value block = node.Attr("block");
    const std::vector<Value> axes = block.Attr("iter_vars").Elements();
    const std::vector<Value> values = node.Attr("iter_values").Elements();
    for (size_t i = 0; i < axes.size(); ++i) {
      loop_of_var_[axes[i].Attr("var").Address()] = Read(values[i]);
    }
    Visit(block.Attr("body"));
  }

  void VisitStore(const Value& node) {
    std::vector<Value> loads;
    const Value buffer = node.Attr("buffer");
    bool accumulates = false;
    static const Function visit("tir.PostOrderVisit");
    WithCallback(
        [&](const Value& expr) {
          if (!expr.Is("tir.BufferLoad")) return;
          if (expr.Attr("buffer").Address() == buffer.Address()) {
            accumulates = true;
          } else {
            loads.push_back(expr);
          }
        },
        [&](const Value& callback) { visit({node.Attr("value"), callback}); });
    if (!accumulates || loads.empty()) return;
    std::vector<Value> accesses = {Access(node)};
    for (const Value& load : loads) accesses.push_back(Access(load));
    anchors_.push_back(MakeArray(accesses));
  }

  // Returns [buffer name, [[loop, (steps, stride, extent), kind], ...] for each dimension]. Loops with large
  // strides come first.
  Value Access(const Value& node) {
    std::vector<Value> result = {node.Attr("buffer").Attr("name")};
    for (const Value& index : node.Attr("indices").Elements()) result.push_back(Dimension(Read(index)));
    return MakeArray(result);
  }

  Value Dimension(const ExprPtr& index) {
    std::vector<std::pair<int64_t, Value>> factors;
    for (const size_t number : live_) {
      const Loop& loop = loops_[number];
      std::set<int64_t> values;
      const int64_t zero = Evaluate(*index, -1, 0);
      for (int64_t at = 0; at < loop.extent; ++at) {
        values.insert(Evaluate(*index, static_cast<int64_t>(number), at) - zero);
      }
      if (values.size() < 2 || *values.begin() != 0) continue;
      const int64_t stride = *std::next(values.begin());
      const int64_t steps = static_cast<int64_t>(values.size());
      if (*values.rbegin() != stride * (steps - 1)) continue;
      const Value numbers = MakeShapeTuple({steps, stride, loop.extent});
      factors.emplace_back(stride, MakeArray({MakeString(loop.name), numbers, MakeString(loop.kind)}));
    }
    std::stable_sort(factors.begin(), factors.end(),
                     [](const auto& a, const auto& b) { return a.first > b.first; });
    std::vector<Value> result;
    for (const auto& [stride, factor] : factors) result.push_back(factor);
    return MakeArray(result);
  }

  static int64_t Constant(const Value& node) {
    if (!node.Is("IntImm")) throw Error("cprune.TileFactors: expected constant loop extents");
    return node.Attr("value").AsInt();
  }

  ExprPtr Read(const Value& node) {
    static const std::map<std::string, Expr::Op> ops = {
        {"tir.Add", Expr::kAdd},           {"tir.Sub", Expr::kSub},      {"tir.Mul", Expr::kMul},
        {"tir.FloorDiv", Expr::kFloorDiv}, {"tir.Div", Expr::kFloorDiv}, {"tir.FloorMod", Expr::kFloorMod},
        {"tir.Mod", Expr::kFloorMod},      {"tir.Min", Expr::kMin},      {"tir.Max", Expr::kMax}};
    const std::string type = node.TypeKey();
    if (type == "IntImm") {
      return std::make_shared<Expr>(Expr{Expr::kConstant, node.Attr("value").AsInt(), nullptr, nullptr});
    }
    if (type == "tir.Cast") return Read(node.Attr("value"));
    const auto op = ops.find(type);
    if (op != ops.end()) {
      return std::make_shared<Expr>(Expr{op->second, 0, Read(node.Attr("a")), Read(node.Attr("b"))});
    }
    const auto name = loop_of_var_.find(node.Address());
    // Other variables and loads do not vary with the loops of this nest.
    if (name == loop_of_var_.end()) {
      return std::make_shared<Expr>(Expr{Expr::kConstant, 0, nullptr, nullptr});
    }
    return name->second;
  }

  std::vector<Loop> loops_;
  std::vector<size_t> live_;
  std::unordered_map<const void*, ExprPtr> loop_of_var_;
  std::vector<Value> anchors_;
};

// (body of a PrimFunc) -> Array of anchors. An anchor is an Array of accesses, the store first.
Value TileFactors(const std::vector<Value>& args) {
  CheckCount(args, 1, "cprune.TileFactors(statement)");
  Reader reader;
  reader.Visit(args[0]);
  return reader.Result();
}

const Registration tile_factors("cprune.TileFactors", TileFactors);

}  // namespace
}  // namespace cprune
