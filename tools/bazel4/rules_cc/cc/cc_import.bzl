"""The native rule under the path that rules_cc gives it."""

cc_import = native.cc_import
