// SPDX-License-Identifier: Apache-2.0
//
// The subgraphs of a fused Relay function and their anchors (see transform.RecordSubgraphs).
#include <unordered_set>

#include "object.h"

namespace cprune {
namespace {

void PostOrderVisit(const Value& expr, const std::function<void(const Value&)>& visit) {
  static const Function post_order_visit("relay.analysis.post_order_visit");
  WithCallback(visit, [&](const Value& callback) { post_order_visit({expr, callback}); });
}

std::string OpName(const Value& call) {
  const Value op = call.Attr("op");
  return op.Is("Op") ? op.Attr("name").AsString() : "";
}

// (body of a function after FuseOps, names of anchor operators...) -> Array of subgraphs in post order. A
// subgraph is an Array of the call of a primitive function and the calls of anchor operators inside the
// function.
Value FindSubgraphs(const std::vector<Value>& args) {
  if (args.size() < 2)
    throw Error("cprune.FindSubgraphs(expr, anchor, ...): got " + std::to_string(args.size()));
  std::unordered_set<std::string> names;
  for (size_t i = 1; i < args.size(); ++i) names.insert(args[i].AsString());

  std::vector<Value> subgraphs;
  PostOrderVisit(args[0], [&](const Value& node) {
    if (!node.Is("relay.Call")) return;
    const Value function = node.Attr("op");
    if (!function.Is("relay.Function")) return;
    std::vector<Value> subgraph = {node};
    PostOrderVisit(function.Attr("body"), [&](const Value& inner) {
      if (inner.Is("relay.Call") && names.count(OpName(inner))) subgraph.push_back(inner);
    });
    subgraphs.push_back(MakeArray(subgraph));
  });
  return MakeArray(subgraphs);
}

// (expr) -> Array of its distinct variables in post order.
Value CollectVars(const std::vector<Value>& args) {
  CheckCount(args, 1, "cprune.CollectVars(expr)");
  std::vector<Value> vars;
  PostOrderVisit(args[0], [&](const Value& node) {
    if (node.Is("relay.Var")) vars.push_back(node);
  });
  return MakeArray(vars);
}

const Registration find_subgraphs("cprune.FindSubgraphs", FindSubgraphs);
const Registration collect_vars("cprune.CollectVars", CollectVars);

}  // namespace
}  // namespace cprune
