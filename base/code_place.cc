#include "mp/base/code_place.h"

#include <dlfcn.h>
#include <link.h>

#include <cstddef>
#include <functional>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace mp {
namespace {

// FNV-1a, 64 bits.
class Fingerprint {
 public:
  void Add(const void* data, size_t size) {
    const auto* const bytes = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < size; ++i) hash_ = (hash_ ^ bytes[i]) * kPrime;
  }
  uint64_t value() const { return hash_; }

 private:
  static constexpr uint64_t kPrime = 0x100000001b3;
  uint64_t hash_ = 0xcbf29ce484222325;
};

bool IsCode(const ElfW(Phdr) & segment) {
  return segment.p_type == PT_LOAD && (segment.p_flags & PF_X) != 0;
}

bool HasCode(const dl_phdr_info& module, uint64_t offset) {
  for (size_t i = 0; i < module.dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = module.dlpi_phdr[i];
    if (IsCode(segment) && offset - segment.p_vaddr < segment.p_memsz) {
      return true;
    }
  }
  return false;
}

// Two builds differ in where their segments are or in the notes, among which
// most linkers put a hash of the whole file (the build id). The code itself is
// left out: a debugger may have put a breakpoint there.
uint64_t FingerprintOf(const dl_phdr_info& module) {
  Fingerprint fingerprint;
  for (size_t i = 0; i < module.dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = module.dlpi_phdr[i];
    fingerprint.Add(&segment, sizeof(segment));
    if (segment.p_type != PT_NOTE) continue;
    fingerprint.Add(
        reinterpret_cast<const void*>(module.dlpi_addr + segment.p_vaddr),
        segment.p_memsz);
  }
  return fingerprint.value();
}

// Calls `look` with each module until it returns true.
bool FindModule(std::function<bool(const dl_phdr_info&)> look) {
  return dl_iterate_phdr(
             [](dl_phdr_info* module, size_t, void* function) {
               return (*static_cast<decltype(look)*>(function))(*module) ? 1
                                                                         : 0;
             },
             &look) != 0;
}

// What came of looking for a place among the loaded modules.
absl::StatusOr<CodeAddress> Find(const CodePlace& place) {
  absl::StatusOr<CodeAddress> found =
      absl::NotFoundError(absl::StrCat(place.module, " is not loaded"));
  FindModule([&](const dl_phdr_info& module) {
    if (place.module != module.dlpi_name) return false;
    if (HasCode(module, place.offset) &&
        FingerprintOf(module) == place.fingerprint) {
      found = reinterpret_cast<CodeAddress>(module.dlpi_addr + place.offset);
    } else {
      found = absl::FailedPreconditionError(absl::StrCat(
          place.module.empty() ? "the program" : place.module,
          " is another build in this process than where the function is "
          "from"));
    }
    return true;
  });
  return found;
}

}  // namespace

absl::StatusOr<CodePlace> PlaceOfCode(CodeAddress address) {
  std::optional<CodePlace> place;
  FindModule([&](const dl_phdr_info& module) {
    const uint64_t offset =
        reinterpret_cast<uintptr_t>(address) - module.dlpi_addr;
    if (!HasCode(module, offset)) return false;
    place = CodePlace{.module = module.dlpi_name,
                      .fingerprint = FingerprintOf(module),
                      .offset = offset};
    return true;
  });
  if (place.has_value()) return *std::move(place);
  return absl::FailedPreconditionError(
      "the function is in no module of the program, so other processes have no "
      "such function");
}

absl::StatusOr<CodeAddress> CodeAt(const CodePlace& place) {
  absl::StatusOr<CodeAddress> found = Find(place);
  if (!absl::IsNotFound(found.status())) return found;
  // Never unloaded: its code may be in use for as long as the process lives.
  if (dlopen(place.module.c_str(), RTLD_NOW | RTLD_NODELETE) == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("a function is in ", place.module,
                     ", which does not load: dlopen: ", dlerror()));
  }
  found = Find(place);
  if (!absl::IsNotFound(found.status())) return found;
  return absl::FailedPreconditionError(found.status().message());
}

std::vector<CodeRange> LoadedCode() {
  std::vector<CodeRange> ranges;
  FindModule([&](const dl_phdr_info& module) {
    const uint64_t fingerprint = FingerprintOf(module);
    for (size_t i = 0; i < module.dlpi_phnum; ++i) {
      const ElfW(Phdr)& segment = module.dlpi_phdr[i];
      if (!IsCode(segment)) continue;
      ranges.push_back(CodeRange{.begin = module.dlpi_addr + segment.p_vaddr,
                                 .size = segment.p_memsz,
                                 .place = {.module = module.dlpi_name,
                                           .fingerprint = fingerprint,
                                           .offset = segment.p_vaddr}});
    }
    return false;
  });
  return ranges;
}

ForeignCode::ForeignCode(std::vector<CodeRange> there)
    : there_(std::move(there)) {}

absl::StatusOr<CodeAddress> ForeignCode::FindInTable(uint64_t address) {
  if (const auto found = found_.find(address); found != found_.end()) {
    return found->second;
  }
  for (const CodeRange& range : there_) {
    const uint64_t offset = address - range.begin;
    if (offset >= range.size) continue;
    CodePlace place = range.place;
    place.offset += offset;
    const absl::StatusOr<CodeAddress> code = CodeAt(place);
    if (code.ok()) found_.emplace(address, *code);
    return code;
  }
  return absl::FailedPreconditionError(
      "the function is in no module that the other process had when it told of "
      "them");
}

}  // namespace mp
