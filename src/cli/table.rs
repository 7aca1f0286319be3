//! A table that is printed while its rows arrive, fifty at a time, so that a million rows need no
//! more memory.

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::text::clean;
use comfy_table::{ColumnConstraint, ContentArrangement, Width, presets};

/// Rows that are laid out together. With more, columns would fit better and appear later.
const CHUNK: usize = 50;
/// Minimum width of the flexible column. A line that the terminal wraps is better than a column of
/// single letters.
const FLEXIBLE_WIDTH_MIN: u16 = 24;
const GAP: u16 = 2;

pub struct TextTable<const N: usize> {
    titles: [&'static str; N],
    /// The column that is wrapped where the terminal is too narrow.
    flexible: usize,
    /// They only grow, so that the chunks line up.
    widths: [u16; N],
    rows: Vec<[String; N]>,
    is_begun: bool,
    is_terminal: bool,
}

impl<const N: usize> TextTable<N> {
    pub fn new(titles: [&'static str; N], flexible: usize, out: &Output) -> TextTable<N> {
        TextTable {
            titles,
            flexible,
            widths: [0; N],
            rows: Vec::with_capacity(CHUNK),
            is_begun: false,
            is_terminal: out.is_terminal(),
        }
    }

    pub fn add(&mut self, row: [String; N], out: &mut Output) -> Result<(), Failure> {
        self.rows.push(row.map(|cell| clean(&cell)));
        if self.rows.len() < CHUNK {
            return Ok(());
        }
        out.write(self.render())?;
        out.flush()
    }

    /// Prints the remaining rows. A table without rows is not printed at all.
    pub fn finish(&mut self, out: &mut Output) -> Result<(), Failure> {
        if !self.rows.is_empty() {
            out.write(self.render())?;
        }
        Ok(())
    }

    fn render(&mut self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        if self.is_terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            // One row a line, whatever its length: a program reads it.
            table.force_no_tty();
        }
        if !std::mem::replace(&mut self.is_begun, true) {
            table.set_header(self.titles);
        }
        table.add_rows(self.rows.drain(..));
        let needed = table.column_max_content_widths();
        for (i, column) in table.column_iter_mut().enumerate() {
            self.widths[i] = self.widths[i].max(needed[i]);
            let width = self.widths[i];
            column.set_padding((0, GAP));
            column.set_constraint(if i == self.flexible && self.is_terminal {
                ColumnConstraint::LowerBoundary(Width::Fixed(width.min(FLEXIBLE_WIDTH_MIN) + GAP))
            } else {
                ColumnConstraint::Absolute(Width::Fixed(width + GAP))
            });
        }
        table.trim_fmt() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_line_up_and_the_header_comes_once() {
        let mut table = TextTable {
            titles: ["id", "uri"],
            flexible: 1,
            widths: [0; 2],
            rows: vec![["long-identifier".into(), "/v1/a b".into()]],
            is_begun: false,
            is_terminal: false,
        };
        assert_eq!(
            table.render(),
            "id               uri\nlong-identifier  /v1/a b\n"
        );
        table.rows = vec![["x".into(), "/".repeat(300)]];
        assert_eq!(
            table.render(),
            format!("x                {}\n", "/".repeat(300))
        );
    }
}
