//! Where the broker's binary is: beside the test binaries, brought up to date once per test process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names another binary to test, which is then not built.
const OVERRIDE: &str = "POSTHOUSE_TEST_BINARY";

/// The path of the `posthouse` binary of the profile the running test was built with.
pub(crate) fn posthouse() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os(OVERRIDE) {
        Some(path) => path.into(),
        None => build(),
    })
}

/// Tests lie in `target/PROFILE/deps`, the binary in `target/PROFILE`. Cargo builds no binary of another package for a
/// test, so an old one may lie there: cargo is asked every time, which is quick when nothing changed.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the running test");
    let profile_dir = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
    let target = profile_dir.parent().expect("a profile's directory lies in the target directory");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "posthouse", "--bin", "posthouse", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "building the broker failed: {status}");
    profile_dir.join("posthouse")
}
