//! The ways in which people and programs use a ledger: the command line, clients, the web page,
//! the API reference, and the documents.

mod book;
mod client;
mod command_line;
mod documents;
mod generated_clients;
mod offline;
mod openapi;
mod output;
mod publish;
mod terminal;
mod tour;
mod ui;
