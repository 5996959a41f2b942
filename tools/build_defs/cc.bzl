"""C++ rules of this repository: cc_* with our include prefix and warnings.

Same attributes as the cc_* rules. Headers are included as
"mp/<package>/<file>.h"; the headers of the root package as "mp/<file>.h".
"""

load("@rules_cc//cc:cc_binary.bzl", "cc_binary")
load("@rules_cc//cc:cc_library.bzl", "cc_library")
load("@rules_cc//cc:cc_test.bzl", "cc_test")

# For our own sources only, so a consumer's code is not affected. No -Werror:
# the next compiler's new warning must not break a user. --config=ci adds it.
_COPTS = [
    "-Wall",
    "-Wextra",
    "-Wnon-virtual-dtor",
    "-Woverloaded-virtual",
    "-Wshadow",
]

# Both need Clang; other compilers ignore them.
_FEATURES = [
    "layering_check",
    "parse_headers",
]

_LINUX = ["@platforms//os:linux"]

_BENCHMARK_DEPS = [
    "@google_benchmark//:benchmark",
    "@google_benchmark//:benchmark_main",
]

def _common(kwargs):
    kwargs = dict(kwargs)
    kwargs["copts"] = _COPTS + kwargs.get("copts", [])
    kwargs["features"] = _FEATURES + kwargs.get("features", [])
    kwargs["target_compatible_with"] = (
        _LINUX + kwargs.get("target_compatible_with", [])
    )
    return kwargs

def mp_cc_library(name, **kwargs):
    package = native.package_name()
    cc_library(
        name = name,
        include_prefix = "mp/" + package if package else "mp",
        **_common(kwargs)
    )

def mp_cc_binary(name, **kwargs):
    cc_binary(name = name, **_common(kwargs))

def mp_cc_test(name, deps = [], size = "small", **kwargs):
    # Whoever asks for GoogleTest's main() includes its headers as well, which
    # layering_check wants to see.
    if "@googletest//:gtest_main" in deps and "@googletest//:gtest" not in deps:
        deps = deps + ["@googletest//:gtest"]
    cc_test(name = name, deps = deps, size = size, **_common(kwargs))

def mp_cc_benchmark(
        name,
        deps = [],
        data = [],
        size = "small",
        smoke_filter = None,
        optional = False,
        tags = [],
        visibility = ["//benchmarks:__pkg__"],
        **kwargs):
    """A Google Benchmark program, and a test that it works.

    Args:
      name: the program; `<name>_smoke` is the test, which runs each benchmark
        once or a little more and fails if one reports an error, if the
        program fails, or if there was nothing to run. An error that begins
        with "skipped:" says that a benchmark cannot run on this machine.
      deps: what the sources include. Google Benchmark's main() is linked
        in, and gives way to a main() in the sources.
      data: as for cc_binary; also the test's.
      size: of the test.
      smoke_filter: what the test runs, as for --benchmark_filter, instead of
        all of it: for programs that do the same with many numbers.
      optional: whether the test also passes where every benchmark is skipped:
        for a program that measures what need not be installed.
      tags: of both. The program gets "benchmark", the test "smoke" as well.
      visibility: of the program; by default the scorecard's.
      **kwargs: as for cc_binary.
    """
    cc_binary(
        name = name,
        testonly = True,
        data = data,
        tags = tags + ["benchmark"],
        visibility = visibility,
        deps = deps + [d for d in _BENCHMARK_DEPS if d not in deps],
        **_common(kwargs)
    )
    cc_test(
        name = name + "_smoke",
        size = size,
        args = [
            "$(rootpath :%s)" % name,
            "'%s'" % (smoke_filter or "."),
        ] + (["optional"] if optional else []),
        data = data + [":" + name],
        tags = tags + ["smoke"],
        target_compatible_with = _LINUX,
        deps = ["//tools/build_defs:benchmark_smoke_main"],
    )

def mp_cc_fuzz_test(
        name,
        srcs,
        corpus,
        deps = [],
        size = "small",
        tags = [],
        **kwargs):
    """A fuzzer for libFuzzer, and a test that runs it over its corpus.

    Args:
      name: the fuzzer, built only when it is asked for, and with Clang:
        `tools/bazel build --config=fuzz <label>`. `<name>_replay` is the test,
        which any compiler builds, in every configuration; given other files as
        arguments it runs these as well.
      srcs: define LLVMFuzzerTestOneInput, which aborts when it finds a bug.
      corpus: files, each one input; at least one.
      deps: what the sources include.
      size: of the test.
      tags: of both. They get "fuzz" as well.
      **kwargs: as for cc_library.
    """
    if not corpus:
        fail("%s: the corpus is empty: nothing would be tested" % name)
    input = name + "_input"
    cc_library(
        name = input,
        testonly = True,
        srcs = srcs,
        # Nothing in it is referred to before libFuzzer or the replayer is.
        alwayslink = True,
        deps = deps,
        **_common(kwargs)
    )
    cc_binary(
        name = name,
        testonly = True,
        linkopts = ["-fsanitize=fuzzer"],
        tags = tags + ["fuzz", "manual"],
        target_compatible_with = _LINUX,
        deps = [":" + input],
    )
    cc_test(
        name = name + "_replay",
        size = size,
        args = ["$(rootpath %s)" % file for file in corpus],
        data = corpus,
        tags = tags + ["fuzz"],
        target_compatible_with = _LINUX,
        deps = [":" + input, "//tools/build_defs:fuzz_replay_main"],
    )
