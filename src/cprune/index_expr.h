// SPDX-License-Identifier: Apache-2.0
//
// Integer expressions over loops: the indices of buffer accesses.
#ifndef CPRUNE_INDEX_EXPR_H_
#define CPRUNE_INDEX_EXPR_H_

#include <algorithm>
#include <memory>

#include "object.h"

namespace cprune {

struct Expr;
using ExprPtr = std::shared_ptr<const Expr>;

// An integer expression over numbered loops.
struct Expr {
  enum Op { kConstant, kLoop, kAdd, kSub, kMul, kFloorDiv, kFloorMod, kMin, kMax };
  Op op;
  int64_t value = 0;  // The constant, or the number of the loop.
  ExprPtr a, b;
};

inline int64_t FloorDiv(int64_t a, int64_t b) {
  return a / b - (a % b != 0 && (a % b < 0) != (b < 0) ? 1 : 0);
}

// Returns the value of an expression with loop `loop` at `at` and all other loops at zero.
inline int64_t Evaluate(const Expr& e, int64_t loop, int64_t at) {
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

}  // namespace cprune
#endif  // CPRUNE_INDEX_EXPR_H_
