//! A set of durations and its percentiles.

use crate::report::Cells;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub fn join(&mut self, other: Times) {
        self.0.extend(other.0);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn median(&mut self) -> Duration {
        self.0.sort_unstable();
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    pub fn cells(&mut self) -> Cells {
        self.0.sort_unstable();
        // The smallest time that is not exceeded by this many percent of them.
        let percentile = |percent: usize| -> Value {
            let rank = (self.0.len() * percent).div_ceil(100).max(1);
            self.0
                .get(rank - 1)
                .map_or(Value::Null, |took| millis(*took))
        };
        vec![
            ("p50 ms", percentile(50)),
            ("p99 ms", percentile(99)),
            ("max ms", percentile(100)),
        ]
    }
}

pub fn millis(took: Duration) -> Value {
    json!(took.as_secs_f64() * 1e3)
}
