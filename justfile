# The groups of tests/run, and what one types between them.

export CROSS_CONFIG := "cross.toml"

# Everything that CI runs.
default: all

all:
    tests/run

# Format, lints, documentation, dependencies.
check:
    tests/run check

# Every crate's own tests.
unit:
    tests/run unit

# Gateway, servers and directory on virtual time.
simulation *ARGS:
    tests/run simulation {{ARGS}}

# The whole road: towns, brokers, crashes.
road *ARGS:
    tests/run road {{ARGS}}

# The atServer alone: every verb, crashes, damaged disks, abuse.
server *ARGS:
    tests/run server {{ARGS}}

# Servers and directory across network namespaces, under loss, partitions and the like.
federation *ARGS:
    tests/run federation {{ARGS}}

# Both Debian packages, the arm64 one under qemu.
package:
    tests/run package

# One Debian package: amd64 or arm64.
deb TARGET *ARGS:
    packaging/build {{TARGET}} {{ARGS}}

# A town in one process, with proof at the end.
demo *ARGS:
    cargo run --release --bin atedge -- demo {{ARGS}}

# The quick checks before a commit.
quick:
    cargo fmt --all
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo test --workspace --locked
