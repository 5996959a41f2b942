"""The native rule under the path that rules_cc gives it."""

cc_binary = native.cc_binary
