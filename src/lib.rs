//! opledger: an event-sourced operation ledger. See ARCHITECTURE.md for the map.

pub mod app;
pub mod audit;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod data_folder;
pub mod dead_letter;
pub mod descriptors;
pub mod domain;
pub mod event_log;
pub mod feed;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod output;
pub mod projector;
pub mod query;
pub mod rows;
pub mod store;
pub mod webhook;
pub mod wire;
pub mod worker;
