"""The native rule under the path that rules_cc gives it."""

cc_test = native.cc_test
