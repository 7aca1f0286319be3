//! The checkout that is tested.

use std::path::PathBuf;

/// Its folder, as cargo says when it runs something. Where something was compiled may be
/// another checkout, if two share what cargo builds.
pub fn root() -> PathBuf {
    let root = std::env::var_os("CARGO_MANIFEST_DIR");
    root.expect("run it by cargo, or set CARGO_MANIFEST_DIR to the checkout")
        .into()
}
