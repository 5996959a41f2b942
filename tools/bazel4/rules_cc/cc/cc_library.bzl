"""The native rule under the path that rules_cc gives it."""

cc_library = native.cc_library
