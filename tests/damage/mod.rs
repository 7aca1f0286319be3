//! What survives kills, full disks, damaged files and logs of earlier versions.

mod durability;
mod full_disk;
mod log;
mod old_log;
mod rebuild;
mod store;
