"""The repositories that Bazel 4.2.3 needs on Debian 12, all of them local.

A workspace that depends on mp calls mp_debian_repositories() too, after
declaring @mp. See examples/external_consumer.
"""

def _local_mirror_impl(ctx):
    root = str(ctx.path(ctx.attr._root).dirname)
    for child in ctx.path(root + "/" + ctx.attr.path).readdir():
        ctx.symlink(child, child.basename)
    ctx.file("WORKSPACE", "workspace(name = \"%s\")\n" % ctx.name)

# Like local_repository, but relative to @mp, wherever that is. A native
# local_repository is relative to the workspace of whoever calls the macro.
_local_mirror = repository_rule(
    implementation = _local_mirror_impl,
    attrs = {
        "path": attr.string(mandatory = True),
        "_root": attr.label(default = "@mp//:WORKSPACE"),
    },
    local = True,
)

def _maybe(rule, name, **kwargs):
    if not native.existing_rule(name):
        rule(name = name, **kwargs)

def mp_debian_repositories():
    """Declares what is not declared yet, under the registry's names."""

    # Debian's Bazel loads these three, but neither contains nor finds them.
    _maybe(_local_mirror, "rules_cc", path = "tools/bazel4/rules_cc")
    _maybe(_local_mirror, "rules_java", path = "tools/bazel4/rules_java")
    _maybe(
        _local_mirror,
        "remote_coverage_tools",
        path = "tools/bazel4/coverage",
    )

    # Debian's libraries with the labels of the Bazel Central Registry.
    _maybe(
        _local_mirror,
        "abseil-cpp",
        path = "third_party/system/abseil-cpp",
    )
    _maybe(
        _local_mirror,
        "boringssl",
        path = "third_party/system/boringssl",
    )
    _maybe(
        _local_mirror,
        "google_benchmark",
        path = "third_party/system/google_benchmark",
    )
    _maybe(_local_mirror, "libpng", path = "third_party/system/libpng")
    _maybe(_local_mirror, "protobuf", path = "third_party/system/protobuf")

    # Debian ships GoogleTest's sources, so it is built with our options.
    _maybe(
        native.new_local_repository,
        "googletest",
        path = "/usr/src/googletest",
        build_file = "@mp//third_party/system:googletest.BUILD",
    )
