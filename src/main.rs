//! The `opledger` program. All of it is in the library; the allocator is in `allocator`.

mod allocator;

fn main() -> std::process::ExitCode {
    // New files are for this user alone, whatever the rights of the folder.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    fail_writes_beyond_the_limit();
    opledger::cli::main()
}

/// Makes a write beyond the limit on file sizes (`ulimit -f`, `LimitFSIZE=`) fail like one on a
/// full disk. Without this a signal ends the process.
fn fail_writes_beyond_the_limit() {
    // Safety: to ignore a signal runs no code in it.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use std::ffi::{CStr, c_char, c_int, c_void};

    unsafe extern "C" {
        fn mallctl(
            name: *const c_char,
            old: *mut c_void,
            old_len: *mut usize,
            new: *mut c_void,
            new_len: usize,
        ) -> c_int;
    }

    fn option<T: Default>(name: &CStr) -> T {
        let (mut value, mut len) = (T::default(), size_of::<T>());
        // Safety: it writes at most as many bytes as `len` says.
        let failed = unsafe {
            let value = (&raw mut value).cast();
            mallctl(name.as_ptr(), value, &mut len, std::ptr::null_mut(), 0)
        };
        assert_eq!((failed, len), (0, size_of::<T>()), "{name:?}");
        value
    }

    /// An option with a wrong name would be ignored without a message.
    #[test]
    fn the_allocator_has_the_configured_options() {
        assert_eq!(option::<isize>(c"opt.dirty_decay_ms"), 1000);
        assert_eq!(option::<usize>(c"opt.oversize_threshold"), 0);
        assert_eq!(option::<u8>(c"opt.background_thread"), 1);
    }
}
