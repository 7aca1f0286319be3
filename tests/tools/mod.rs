//! What people and programs reach a ledger by: the command line, clients, the web page, the
//! reference of the interface, and the documents.

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
