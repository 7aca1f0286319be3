//! Tools that the other tests use: comparisons with readable messages, and waits that end.

use crate::support::deadline::within;
use crate::support::same::{assert_same, assert_same_set, assert_same_text};
use std::time::{Duration, Instant};

/// The message of a failing check.
fn said(check: impl FnOnce()) -> String {
    let check = std::panic::AssertUnwindSafe(check);
    let panic = std::panic::catch_unwind(check).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

#[test]
fn a_difference_is_shown_with_what_is_around_it() {
    let many: Vec<usize> = (0..100_000).collect();
    let mut other = many.clone();
    other[70_000] = 7;
    let text = said(|| assert_same("numbers", &many, &other));
    assert!(text.len() < 1000, "{text}");
    assert!(
        text.contains("> \u{20}   70000,") && text.contains(">     7,"),
        "{text}"
    );
    let long = "x".repeat(1_000_000);
    let text = said(|| assert_same_text("a body", format!("{long}a").as_bytes(), long.as_bytes()));
    assert!(text.len() < 2000 && text.contains("xa"), "{text}");
    let text = said(|| assert_same("short", &[1, 2][..], &[1, 2, 3][..]));
    assert!(text.contains("3,"), "{text}");
    let text = said(|| assert_same_set("ids", ["a", "b", "c"], ["b", "c", "d", "d"]));
    assert!(
        text.contains("3 instead of 4; missing: \"d\", \"d\"; not expected: \"a\""),
        "{text}"
    );
    assert_same("the same", "x", "x");
    assert_same_set("in any order", [3, 1, 2], [1, 2, 3]);
}

#[test]
fn a_wait_ends_in_time_and_names_its_position() {
    let began = Instant::now();
    let never = || None::<()>;
    let text = said(|| within(Duration::from_millis(50), "the moon", never));
    assert!(text.contains("the moon"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let mut looks = 0;
    let found = within(Duration::from_secs(10), "the third look", || {
        looks += 1;
        (looks == 3).then_some(looks)
    });
    assert_eq!(found, 3);
}
