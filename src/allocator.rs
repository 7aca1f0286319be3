//! The allocator of the program and of its benchmarks: jemalloc, which RocksDB uses too.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Freed memory returns to the system after one second instead of ten: a merge of large files, or
/// a long list, frees much at once. A background thread of jemalloc returns it. Without that
/// thread, memory returned only when more was requested, and stayed while nothing happened. Large
/// allocations are also kept for a second instead of being returned at once. The memory of a
/// record batch is one: new pages for each batch cost a seventh of catching up with large bodies.
/// jemalloc reads this symbol as a C string. It reads no other name where, as here, it replaces
/// the C library's `malloc`.
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: Option<&'static std::ffi::c_char> =
    Some(unsafe { &*c"dirty_decay_ms:1000,oversize_threshold:0,background_thread:true".as_ptr() });
