// How a range of items becomes tasks: chunks of items, encoded. Internal to the
// pool.

#ifndef MP_POOL_CHUNKS_H_
#define MP_POOL_CHUNKS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "mp/ipc/codec.h"
#include "mp/pool/task.h"

namespace mp::pool_internal {

// The input of one MapTask or StreamTask.
struct Chunk {
  std::vector<std::byte> input;
  size_t count = 0;  // of items
  // Not OK: the chunk is one item, which cannot be sent.
  absl::Status error;
};

// The size of chunks of which each worker gets four, as in Python.
inline size_t DefaultChunkSize(size_t items, int workers) {
  const auto chunks = static_cast<size_t>(4 * workers);
  return std::max<size_t>(1, (items + chunks - 1) / chunks);
}

class ChunkSource {
 public:
  virtual ~ChunkSource() = default;

  // Reads the next items of the range. False if there are none. What the range
  // throws is thrown here, once the items before have come out as chunks; the
  // range counts as ended then.
  virtual bool Next(Chunk& chunk) = 0;
};

// The chunks of a range, which must stay where it is. An item is read when a
// chunk needs it, not before: a range may wait for its next item.
template <class How, class F, std::ranges::input_range Items>
class Chunks final : public ChunkSource {
 public:
  using Item = typename How::template Item<std::ranges::range_value_t<Items>>;

  // A chunk has `chunksize` items, or fewer, so that its size is hardly more
  // than a quarter of `max_bytes`, and more than that only if an item is.
  Chunks(F function, Items& items, size_t chunksize, size_t max_bytes)
      : address_(FunctionAddress(function)),
        items_(items),
        chunksize_(std::max<size_t>(1, chunksize)),
        max_bytes_(max_bytes) {}

  bool Next(Chunk& chunk) override {
    if (exception_ != nullptr) {
      std::rethrow_exception(std::exchange(exception_, nullptr));
    }
    chunk.input.resize(sizeof(address_));
    memcpy(chunk.input.data(), &address_, sizeof(address_));
    chunk.count = 0;
    chunk.error = std::exchange(next_error_, absl::OkStatus());
    if (!chunk.error.ok()) {
      chunk.count = 1;
      return true;
    }
    if (!next_item_.empty()) {
      chunk.input.insert(chunk.input.end(), next_item_.begin(),
                         next_item_.end());
      next_item_.clear();
      chunk.count = 1;
    }
    size_t filled = chunk.input.size();
    try {
      Fill(chunk, filled);
    } catch (...) {
      ended_ = true;
      if (chunk.count == 0) throw;
      chunk.input.resize(filled);
      exception_ = std::current_exception();
    }
    return chunk.count > 0;
  }

 private:
  using Iterator = std::ranges::iterator_t<Items>;

  // Their bytes are the message.
  static constexpr bool kCopied =
      PlainBytes<Item> && std::ranges::contiguous_range<Items> &&
      std::ranges::sized_range<Items> &&
      std::is_same_v<Item, std::ranges::range_value_t<Items>>;

  // `filled` bytes are whole items, should this throw.
  void Fill(Chunk& chunk, size_t& filled) {
    const size_t enough = max_bytes_ / 4;
    if constexpr (kCopied) {
      const size_t left = std::ranges::size(items_) - taken_;
      const size_t most = std::max<size_t>(1, enough / sizeof(Item));
      chunk.count = std::min({chunksize_, left, most});
      const auto bytes = std::as_bytes(
          std::span(std::ranges::data(items_) + taken_, chunk.count));
      chunk.input.insert(chunk.input.end(), bytes.begin(), bytes.end());
      taken_ += chunk.count;
    } else {
      while (chunk.count < chunksize_ &&
             (chunk.count == 0 || chunk.input.size() < enough) && Advance()) {
        absl::Status error = Append(**next_, chunk.input);
        if (!error.ok()) {
          if (chunk.count == 0) {
            chunk.error = std::move(error);
            chunk.count = 1;
          } else {
            next_error_ = std::move(error);
          }
          return;
        }
        if (chunk.count > 0 && chunk.input.size() > max_bytes_) {
          const auto end =
              chunk.input.begin() + static_cast<std::ptrdiff_t>(filled);
          next_item_.assign(end, chunk.input.end());
          chunk.input.resize(filled);
          return;
        }
        ++chunk.count;
        filled = chunk.input.size();
      }
    }
  }

  // False at the end.
  bool Advance() {
    if (ended_) return false;
    if (next_.has_value()) {
      ++*next_;
    } else {
      next_.emplace(std::ranges::begin(items_));
    }
    ended_ = *next_ == std::ranges::end(items_);
    return !ended_;
  }

  template <class T>
  static absl::Status Append(T&& item, std::vector<std::byte>& out) {
    if constexpr (std::is_same_v<std::remove_cvref_t<T>, Item>) {
      return AppendItem<Item>(item, out);
    } else if constexpr (std::is_convertible_v<T&&, Item>) {
      return AppendItem<Item>(static_cast<Item>(std::forward<T>(item)), out);
    } else {
      return AppendItem<Item>(
          std::apply(
              [](auto&&... elements) {
                return Item(std::forward<decltype(elements)>(elements)...);
              },
              std::forward<T>(item)),
          out);
    }
  }

  const uint64_t address_;
  Items& items_;
  const size_t chunksize_;
  const size_t max_bytes_;
  size_t taken_ = 0;              // if kCopied
  std::optional<Iterator> next_;  // the item that was read last
  bool ended_ = false;
  // What did not fit into the last chunk, or could not be sent.
  std::vector<std::byte> next_item_;
  absl::Status next_error_;
  std::exception_ptr exception_;
};

// The chunks of a range that it holds as a view would: Items is what the range
// was passed as. One that has a name, and is no view, is referred to.
// (Not by std::views::all: Clang 14 finds no range in the views of the C++
// library of GCC 12.)
template <class How, class F, class Items>
class HeldChunks final : public ChunkSource {
 public:
  using Held = std::conditional_t<
      std::is_lvalue_reference_v<Items> &&
          !std::ranges::enable_view<std::remove_cvref_t<Items>>,
      Items, std::remove_cvref_t<Items>>;

  HeldChunks(F function, Items&& items, size_t chunksize, size_t max_bytes)
      : items_(std::forward<Items>(items)),
        chunks_(function, items_, chunksize, max_bytes) {}

  bool Next(Chunk& chunk) override { return chunks_.Next(chunk); }

 private:
  Held items_;
  Chunks<How, F, std::remove_reference_t<Held>> chunks_;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_CHUNKS_H_
