//! The `opledger` program. All of it is in the library; here is its allocator,
//! the same that RocksDB uses.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What was freed goes back to the system after a second instead of ten: a merge of large
/// files, or a long list, frees much at once. jemalloc reads a C string under this name.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8] = b"dirty_decay_ms:1000\0";

fn main() -> std::process::ExitCode {
    opledger::cli::main()
}
