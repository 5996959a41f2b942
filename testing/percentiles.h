// Percentiles of what was measured.

#ifndef MP_TESTING_PERCENTILES_H_
#define MP_TESTING_PERCENTILES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "mp/base/check.h"

namespace mp::testing {

// Of at least one sample, in any order.
class Percentiles {
 public:
  explicit Percentiles(std::vector<int64_t> samples)
      : samples_(std::move(samples)) {
    MP_CHECK(!samples_.empty());
    std::sort(samples_.begin(), samples_.end());
  }

  size_t count() const { return samples_.size(); }
  int64_t max() const { return samples_.back(); }
  // The smallest sample that so many thousandths of all do not exceed: one that
  // was measured, not a number between two. 500 is the median.
  int64_t at(size_t thousandths) const {
    const size_t rank = (thousandths * samples_.size() + 999) / 1000;
    return samples_[std::clamp<size_t>(rank, 1, samples_.size()) - 1];
  }
  double mean() const {
    double sum = 0;
    for (const int64_t sample : samples_) sum += static_cast<double>(sample);
    return sum / static_cast<double>(samples_.size());
  }

 private:
  std::vector<int64_t> samples_;
};

}  // namespace mp::testing

#endif  // MP_TESTING_PERCENTILES_H_
