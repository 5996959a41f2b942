"""Python programs and tests.

Not py_binary and py_test: those of Bazel 4.2.3 need a command `python`, which
Debian does not have. Modules import each other from the workspace's root:
`from benchmarks import stats`.
"""

_RUN = "//tools/build_defs:python.sh"

def mp_py_binary(name, main, deps = [], data = [], **kwargs):
    """A Python program.

    Args:
      name: of the target.
      main: the source file that is run.
      deps: py_library targets.
      data: as for py_binary; paths are relative to the workspace's root.
      **kwargs: as for sh_binary.
    """
    native.sh_binary(
        name = name,
        srcs = [_RUN],
        args = ["$(rootpath %s)" % main],
        data = [main] + deps + data,
        **kwargs
    )

def mp_py_test(name, main, deps = [], data = [], tags = [], **kwargs):
    """A test in Python: not with sanitizers, which would not see it.

    Args:
      name: of the target.
      main: the source file that is run, which ends with unittest.main().
      deps: py_library targets.
      data: as for py_test.
      tags: as for py_test.
      **kwargs: as for sh_test.
    """
    native.sh_test(
        name = name,
        srcs = [_RUN],
        args = ["$(rootpath %s)" % main],
        data = [main] + deps + data,
        tags = tags + ["noasan", "notsan"],
        **kwargs
    )
