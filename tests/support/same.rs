//! Comparisons that print the differences and not everything.

use std::fmt::Debug;

/// Lines before and after the first difference, and characters of a line.
const LINES: usize = 3;
const COLUMNS: usize = 160;

/// Fails with the first difference between found and expected.
#[track_caller]
pub fn assert_same<F: Debug + PartialEq<E> + ?Sized, E: Debug + ?Sized>(
    what: &str,
    found: &F,
    expected: &E,
) {
    if found != expected {
        let (found, expected) = (format!("{found:#?}"), format!("{expected:#?}"));
        panic!("{what}: {}", first_difference(&found, &expected));
    }
}

/// The same for bytes that are text, such as bodies.
#[track_caller]
pub fn assert_same_text(what: &str, found: &[u8], expected: &[u8]) {
    if found != expected {
        let [found, expected] = [found, expected].map(String::from_utf8_lossy);
        panic!("{what}: {}", first_difference(&found, &expected));
    }
}

/// Fails with the missing and the unexpected entries.
#[track_caller]
pub fn assert_same_set<T: Debug + Ord>(
    what: &str,
    found: impl IntoIterator<Item = T>,
    expected: impl IntoIterator<Item = T>,
) {
    let found: Vec<T> = sorted(found);
    let expected: Vec<T> = sorted(expected);
    let missing = without(&expected, &found);
    let extra = without(&found, &expected);
    assert!(
        missing.is_empty() && extra.is_empty(),
        "{what}: {} instead of {}; missing: {}; not expected: {}",
        found.len(),
        expected.len(),
        some(&missing),
        some(&extra),
    );
}

/// The beginning of a long text.
pub fn short(text: &str) -> String {
    match text.char_indices().nth(2000) {
        None => text.to_owned(),
        Some((end, _)) => format!("{} … ({} bytes)", &text[..end], text.len()),
    }
}

fn sorted<T: Ord>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = all.into_iter().collect();
    all.sort();
    all
}

/// The entries of the first that the second lacks, with repeats. Both are sorted.
fn without<'a, T: Ord>(these: &'a [T], those: &[T]) -> Vec<&'a T> {
    let mut those = those.iter().peekable();
    let mut rest = Vec::new();
    for one in these {
        while those.next_if(|other| *other < one).is_some() {}
        if those.next_if(|other| *other == one).is_none() {
            rest.push(one);
        }
    }
    rest
}

fn some<T: Debug>(all: &[&T]) -> String {
    let first: Vec<_> = all
        .iter()
        .take(5)
        .map(|one| cut(&format!("{one:?}"), 0))
        .collect();
    match all.len() {
        0 => "none".into(),
        1..=5 => first.join(", "),
        count => format!("{}, … ({count} in all)", first.join(", ")),
    }
}

fn first_difference(found: &str, expected: &str) -> String {
    let (these, those): (Vec<_>, Vec<_>) = (found.lines().collect(), expected.lines().collect());
    let line = (0..).find(|n| these.get(*n) != those.get(*n)).unwrap_or(0);
    let (this, that) = (these.get(line), those.get(line));
    // The column, so that a long line is shortened around it.
    let pairs = this.unwrap_or(&"").chars().zip(that.unwrap_or(&"").chars());
    let column = pairs.take_while(|(a, b)| a == b).count();
    let around = |lines: &[&str]| {
        let from = line.saturating_sub(LINES).min(lines.len());
        let until = (line + LINES + 1).min(lines.len());
        let shown = lines[from..until].iter().enumerate();
        let shown = shown.map(|(n, text)| match from + n == line {
            true => format!("  > {}", cut(text, column)),
            false => format!("    {}", cut(text, 0)),
        });
        match until <= line {
            true => shown
                .chain(["  > (ends here)".into()])
                .collect::<Vec<_>>()
                .join("\n"),
            false => shown.collect::<Vec<_>>().join("\n"),
        }
    };
    format!(
        "they differ from line {} on (of {} found and {} expected)\nfound:\n{}\nexpected:\n{}",
        line + 1,
        these.len(),
        those.len(),
        around(&these),
        around(&those)
    )
}

/// A readable part of a line, from a little before the column.
fn cut(line: &str, column: usize) -> String {
    let before = column.saturating_sub(COLUMNS / 2);
    let rest: String = line.chars().skip(before).take(COLUMNS).collect();
    let is_cut = line.chars().nth(before + COLUMNS).is_some();
    let (head, tail) = (
        if before > 0 { "…" } else { "" },
        if is_cut { "…" } else { "" },
    );
    format!("{head}{rest}{tail}")
}
