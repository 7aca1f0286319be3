//! What survives what: kills, full disks, damaged files, logs of earlier versions.

mod durability;
mod full_disk;
mod log;
mod old_log;
mod rebuild;
mod store;
