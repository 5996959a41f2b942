#include "mp/pool/initializer.h"

#include "absl/strings/str_cat.h"

namespace mp {

absl::Status pool_internal::InitializerCannotTravel() {
  return absl::InvalidArgumentError(
      "the initializer is neither a function nor a callable without captures, "
      "and only a fork has it");
}

absl::Status pool_internal::InitializerArgumentCannotTravel(size_t number) {
  return absl::InvalidArgumentError(absl::StrCat(
      "argument ", number,
      " of the initializer is of a type that cannot be sent to another program "
      "(see mp/ipc/codec.h), and only a fork has it"));
}

size_t Codec<Initializer>::Size(const Initializer& initializer) {
  return sizeof(bool) + (initializer ? initializer.call_->EncodedSize() : 0);
}

void Codec<Initializer>::Write(const Initializer& initializer, Writer& writer) {
  writer.Write(static_cast<bool>(initializer));
  if (initializer) initializer.call_->Write(writer);
}

Initializer Codec<Initializer>::Read(Reader& reader) {
  Initializer initializer;
  if (!reader.Read<bool>()) return initializer;
  const auto place = reader.Read<CodePlace>();
  const absl::StatusOr<CodeAddress> code = CodeAt(place);
  if (!code.ok()) {
    reader.Fail(code.status());
    return initializer;
  }
  const auto read = reinterpret_cast<pool_internal::ReadInitializerCall>(*code);
  initializer.call_ = read(reader);
  return initializer;
}

}  // namespace mp
