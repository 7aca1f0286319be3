//! The `opledger` program. All of it is in the library; here is its allocator,
//! the same that RocksDB uses.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What was freed goes back to the system after a second instead of ten: a merge of large
/// files, or a long list, frees much at once. Large pieces too are kept that long, not given back at
/// once: a cut's batch is one, and taking new pages for each cost a seventh of catching up with
/// large bodies. jemalloc reads a C string under this name; under it alone where, as here, it
/// stands for the C library's `malloc`.
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: Option<&'static std::ffi::c_char> =
    Some(unsafe { &*c"dirty_decay_ms:1000,oversize_threshold:0".as_ptr() });

fn main() -> std::process::ExitCode {
    opledger::cli::main()
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

    fn option(name: &CStr) -> isize {
        let (mut value, mut len) = (0isize, size_of::<isize>());
        // Safety: it writes as many bytes as it is told that there are.
        let failed = unsafe {
            let value = (&raw mut value).cast();
            mallctl(name.as_ptr(), value, &mut len, std::ptr::null_mut(), 0)
        };
        assert_eq!((failed, len), (0, size_of::<isize>()), "{name:?}");
        value
    }

    /// By the wrong name nothing would be said, and nothing set.
    #[test]
    fn the_allocator_is_set_as_we_say() {
        assert_eq!(option(c"opt.dirty_decay_ms"), 1000);
        assert_eq!(option(c"opt.oversize_threshold"), 0);
    }
}
