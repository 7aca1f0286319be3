//! The allocator of the program, the same that RocksDB uses, and of what measures its parts.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What was freed goes back to the system after a second instead of ten: a merge of large
/// files, or a long list, frees much at once. A thread of the allocator's sees to it: without
/// one, memory went back only when more was asked for, and stayed while nothing happened. Large pieces too are kept that long, not given back at
/// once: a cut's batch is one, and taking new pages for each cost a seventh of catching up with
/// large bodies. jemalloc reads a C string under this name; under it alone where, as here, it
/// stands for the C library's `malloc`.
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: Option<&'static std::ffi::c_char> =
    Some(unsafe { &*c"dirty_decay_ms:1000,oversize_threshold:0,background_thread:true".as_ptr() });
