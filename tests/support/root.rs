//! The checkout under test.

use std::path::PathBuf;

/// Its folder, as cargo sets it at run time. The path at compile time may be that of another
/// checkout that shares the build folder.
pub fn root() -> PathBuf {
    let root = std::env::var_os("CARGO_MANIFEST_DIR");
    root.expect("run it by cargo, or set CARGO_MANIFEST_DIR to the checkout")
        .into()
}
