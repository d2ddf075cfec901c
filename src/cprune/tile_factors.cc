// SPDX-License-Identifier: Apache-2.0
//
// Tile factors read from a loop nest, whoever scheduled it: which loops run over each dimension of what an
// anchor stores and loads.
//
// An anchor is a store that adds to what it loads from its own buffer. Its indices are functions of the loops
// around it. Each loop is taken alone, the others at zero: where the index then goes 0, s, 2s, ... (n - 1)s
// the loop is n steps of stride s along that dimension, even if it was fused with loops over other
// dimensions.
#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>

#include "object.h"

namespace cprune {
namespace {

struct Expr;
using ExprPtr = std::shared_ptr<const Expr>;

// An integer expression of loops.
struct Expr {
  enum Op { kConstant, kLoop, kAdd, kSub, kMul, kFloorDiv, kFloorMod, kMin, kMax };
  Op op;
  int64_t value = 0;  // the constant, or the number of the loop
  ExprPtr a, b;
};

int64_t FloorDiv(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a % b < 0) != (b < 0) ? 1 : 0); }

// The value of an expression where loop `loop` is at `at` and all others are at zero.
int64_t Evaluate(const Expr& e, int64_t loop, int64_t at) {
  if (e.op == Expr::kConstant) return e.value;
  if (e.op == Expr::kLoop) return e.value == loop ? at : 0;
  const int64_t a = Evaluate(*e.a, loop, at);
  const int64_t b = Evaluate(*e.b, loop, at);
  switch (e.op) {
    case Expr::kAdd:
      return a + b;
    case Expr::kSub:
      return a - b;
    case Expr::kMul:
      return a * b;
    case Expr::kMin:
      return std::min(a, b);
    case Expr::kMax:
      return std::max(a, b);
    default:
      if (b == 0) throw Error("cprune.TileFactors: an index divides by zero");
      return e.op == Expr::kFloorDiv ? FloorDiv(a, b) : a - b * FloorDiv(a, b);
  }
}

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
      for (const Value& each : node.Attr("seq").Elements()) Visit(each);
    } else if (type == "tir.IfThenElse") {
      Visit(node.Attr("then_case"));
      Visit(node.Attr("else_case"));
    } else if (type == "tir.BlockRealize") {
      VisitBlock(node);
    } else if (type == "tir.LetStmt") {
      names_[node.Attr("var").Address()] = Read(node.Attr("value"));
      Visit(node.Attr("body"));
    } else if (type == "tir.BufferRealize" || type == "tir.ProducerRealize" || type == "tir.Allocate" ||
               type == "tir.DeclBuffer" || type == "tir.AssertStmt") {
      Visit(node.Attr("body"));
    } else if (type == "tir.BufferStore") {
      VisitStore(node);
    }
  }

  Value Result() const { return MakeArray(found_); }

 private:
  void Within(const Value& var, const Loop& loop, const Value& body) {
    names_[var.Address()] =
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
    if (names_.count(var.Address())) {  // the same thread, said again around another stage
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
      names_[axes[i].Attr("var").Address()] = Read(values[i]);
    }
    Visit(block.Attr("body"));
  }

  void VisitStore(const Value& node) {
    std::vector<Value> loads;
    const Value buffer = node.Attr("buffer");
    bool adds = false;
    static const Function visit("tir.PostOrderVisit");
    WithCallback(
        [&](const Value& each) {
          if (!each.Is("tir.BufferLoad")) return;
          if (each.Attr("buffer").Address() == buffer.Address()) {
            adds = true;
          } else {
            loads.push_back(each);
          }
        },
        [&](const Value& callback) { visit({node.Attr("value"), callback}); });
    if (!adds || loads.empty()) return;
    std::vector<Value> accesses = {Access(node)};
    for (const Value& load : loads) accesses.push_back(Access(load));
    found_.push_back(MakeArray(accesses));
  }

  // [buffer's name, [[loop, extent, stride, kind], ...] for each dimension], the largest strides first.
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
    for (const auto& each : factors) result.push_back(each.second);
    return MakeArray(result);
  }

  static int64_t Constant(const Value& node) {
    if (!node.Is("IntImm")) throw Error("cprune.TileFactors: a loop's extent is not a constant");
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
    const auto name = names_.find(node.Address());
    // What depends on data, or on what is outside, is no loop of this nest.
    if (name == names_.end()) {
      return std::make_shared<Expr>(Expr{Expr::kConstant, 0, nullptr, nullptr});
    }
    return name->second;
  }

  std::vector<Loop> loops_;
  std::vector<size_t> live_;
  std::unordered_map<const void*, ExprPtr> names_;
  std::vector<Value> found_;
};

// (body of a PrimFunc) -> Array of anchors, each an Array of accesses, the store first.
Value TileFactors(const std::vector<Value>& args) {
  CheckCount(args, 1, "cprune.TileFactors(statement)");
  Reader reader;
  reader.Visit(args[0]);
  return reader.Result();
}

const Registration tile_factors("cprune.TileFactors", TileFactors);

}  // namespace
}  // namespace cprune
