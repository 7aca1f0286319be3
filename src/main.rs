//! The `opledger` program. All of it is in the library; here is its allocator,
//! the same that RocksDB uses.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    opledger::cli::main()
}
