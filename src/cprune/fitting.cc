// SPDX-License-Identifier: Apache-2.0
//
// Arithmetic on tile factors: which widths fit given splits, and which splits fit a given extent.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "object.h"

namespace cprune {
namespace {

using Lengths = std::vector<int64_t>;

int64_t Product(const Lengths& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{1}, std::multiplies<int64_t>());
}

// Returns the number of lanes in the registers that hold `length` numbers, divided by `length`.
double Padding(int64_t length, int64_t lanes) {
  const int64_t registers = (length + lanes - 1) / lanes;
  return static_cast<double>(registers * lanes) / static_cast<double>(length);
}

// Returns how far `changed` is from `lengths`. The innermost length, usually the vector, has the largest
// weight, and so have lanes that it leaves unused. The product of all counts because it determines the use of
// registers.
double Distance(const Lengths& lengths, const Lengths& changed, int64_t lanes) {
  const auto ratio = [](int64_t a, int64_t b) {
    return std::fabs(std::log2(static_cast<double>(a) / static_cast<double>(b)));
  };
  double distance = ratio(Product(changed), Product(lengths));
  for (size_t i = 0; i < lengths.size(); ++i) {
    distance += ratio(changed[i], lengths[i]) * (i + 1 == lengths.size() ? 4 : 1);
  }
  const double unused = Padding(changed.back(), lanes) / Padding(lengths.back(), lanes);
  return distance + 4 * std::max(0.0, std::log2(unused));
}

// Appends to `out` every list of lengths whose product divides `rest`. No length exceeds twice its old value.
// The innermost divides its old value, or is shorter and either fills whole registers of `lanes` numbers or
// fits one: LLVM leaves the other lanes unused, but generates slow code for longer vectors of odd length.
void Enumerate(const Lengths& lengths, int64_t rest, int64_t lanes, Lengths* prefix,
               std::vector<Lengths>* out) {
  const size_t depth = prefix->size();
  if (depth == lengths.size()) {
    out->push_back(*prefix);
    return;
  }
  const int64_t old = lengths[depth];
  const bool innermost = depth + 1 == lengths.size();
  const int64_t cap = std::min(rest, innermost ? old : 2 * old);
  for (int64_t factor = 1; factor <= cap; ++factor) {
    const bool fills_registers = lanes > 1 && factor % lanes == 0;
    if (rest % factor) continue;
    if (innermost && old % factor && factor > lanes && !fills_registers) continue;
    prefix->push_back(factor);
    Enumerate(lengths, rest / factor, lanes, prefix, out);
    prefix->pop_back();
  }
}

// (extent, limit, lanes, inner lengths...) -> Array of up to `limit` ShapeTuples whose products divide
// `extent`, closest to the given lengths first. If the given lengths fit, they are the only result.
Value FitLengths(const std::vector<Value>& args) {
  if (args.size() < 4)
    throw Error("cprune.FitLengths(extent, limit, lanes, length, ...): got " + std::to_string(args.size()));
  const int64_t extent = args[0].AsInt();
  const int64_t limit = args[1].AsInt();
  const int64_t lanes = args[2].AsInt();
  Lengths lengths;
  for (size_t i = 3; i < args.size(); ++i) lengths.push_back(args[i].AsInt());
  if (extent < 1 || limit < 1 || lanes < 1 || *std::min_element(lengths.begin(), lengths.end()) < 1) {
    throw Error("cprune.FitLengths: extent, limit, lanes and all lengths must be at least 1");
  }
  if (extent % Product(lengths) == 0) return MakeArray({MakeShapeTuple(lengths)});

  std::vector<Lengths> candidates;
  Lengths prefix;
  Enumerate(lengths, extent, lanes, &prefix, &candidates);
  std::stable_sort(candidates.begin(), candidates.end(), [&](const Lengths& a, const Lengths& b) {
    return Distance(lengths, a, lanes) < Distance(lengths, b, lanes);
  });
  candidates.resize(std::min<size_t>(candidates.size(), limit));
  std::vector<Value> result;
  for (const Lengths& candidate : candidates) result.push_back(MakeShapeTuple(candidate));
  return MakeArray(result);
}

// (width, first, last, round_to, [extent, scale, product]...) -> the first width from `first` to `last`,
// ascending or descending, that is a multiple of `round_to` and meets all constraints, or 0. Each channel
// added to `width` adds `scale` to the `extent` of a constraint, which must be a positive multiple of
// `product`.
Value FittingWidth(const std::vector<Value>& args) {
  if (args.size() < 4 || args.size() % 3 != 1) {
    throw Error("cprune.FittingWidth(width, first, last, round_to, [extent, scale, product]...): got " +
                std::to_string(args.size()));
  }
  std::vector<int64_t> numbers;
  for (const Value& arg : args) numbers.push_back(arg.AsInt());
  const int64_t width = numbers[0];
  const int64_t first = numbers[1];
  const int64_t last = numbers[2];
  const int64_t round_to = numbers[3];
  if (width < 1 || round_to < 1) throw Error("cprune.FittingWidth: width and round_to must be at least 1");
  for (size_t i = 6; i < numbers.size(); i += 3) {
    if (numbers[i] < 1) throw Error("cprune.FittingWidth: all products must be at least 1");
  }
  const int64_t direction = first <= last ? 1 : -1;
  for (int64_t next = first; (last - next) * direction >= 0; next += direction) {
    bool fits = next > 0 && next % round_to == 0;
    for (size_t i = 4; i < numbers.size() && fits; i += 3) {
      const int64_t extent = numbers[i] + (next - width) * numbers[i + 1];
      fits = extent > 0 && extent % numbers[i + 2] == 0;
    }
    if (fits) return next;
  }
  return int64_t{0};
}

const Registration fit_lengths("cprune.FitLengths", FitLengths);
const Registration fitting_width("cprune.FittingWidth", FittingWidth);

}  // namespace
}  // namespace cprune
