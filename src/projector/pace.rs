//! While many events come in, both cores are busy with taking them. Then cuts are made less
//! often, since several events of an operation cost little more than one, and whoever projects
//! gives way to whoever takes in, unless readers would have to wait for seconds.

use std::time::{Duration, Instant};

/// Records a second from which on that is so.
const MANY: f64 = 20_000.0;
/// Judged over so long, so that a burst is none.
const SPAN: Duration = Duration::from_millis(100);
/// Between two cuts.
const PAUSE: Duration = Duration::from_millis(50);
/// So old, records are caught up with, or projecting has given way enough.
const BEHIND: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct Pace {
    /// Since when it is counted, and how many came.
    counted: Option<(Instant, usize)>,
    /// The last cut was made, and was not full.
    made: Option<Instant>,
    many: bool,
}

impl Pace {
    /// Do many come?
    pub fn gives_way(&self) -> bool {
        self.many
    }

    /// What is left of the pause before the next cut. Behind a full one there is none: more
    /// waits, and it would not be larger.
    pub fn pause(&self, now: Instant) -> Duration {
        let made = self.made.filter(|_| self.many);
        made.map_or(Duration::ZERO, |made| PAUSE.saturating_sub(now - made))
    }

    /// A cut was made, the oldest record in it of this age.
    pub fn note(&mut self, now: Instant, records: usize, is_full: bool, age: Duration) {
        self.made = (!is_full).then_some(now);
        let (since, before) = self.counted.unwrap_or((now, 0));
        let span = now - since;
        // Those of the first cut came before.
        let records = if span.is_zero() { 0 } else { before + records };
        self.counted = Some((since, records));
        if span >= SPAN {
            self.many = records as f64 > MANY * span.as_secs_f64();
            self.counted = Some((now, 0));
        }
        self.many &= age < BEHIND;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Duration = Duration::from_secs(1);

    /// The pause behind each cut of so many records, `apart` milliseconds from each other, and
    /// whether it gives way.
    fn paces(cuts: &[(usize, bool, Duration)], apart: u64) -> Vec<(u128, bool)> {
        let (begun, mut pace) = (Instant::now(), Pace::default());
        let cuts = cuts.iter().zip(1..);
        let one = |((records, is_full, age), n): (&(usize, bool, Duration), u32)| {
            let now = begun + n * Duration::from_millis(apart);
            pace.note(now, *records, *is_full, *age);
            (pace.pause(now).as_millis(), pace.gives_way())
        };
        cuts.map(one).collect()
    }

    #[test]
    fn it_gives_way_only_while_many_come_for_long() {
        // 30,000 a second, then 10,000, in cuts of 10 ms.
        let many = [[(300, false, YOUNG); 11], [(100, false, YOUNG); 11]].concat();
        let found = paces(&many, 10);
        assert_eq!(found[..10], [(0, false); 10], "a burst");
        assert_eq!(found[10..20], [(50, true); 10]);
        assert_eq!(found[20..], [(0, false); 2]);
        // Few at a time however quickly they follow: 2 in each ms.
        assert_eq!(paces(&[(2, false, YOUNG); 300], 1), [(0, false); 300]);
    }

    #[test]
    fn full_cuts_follow_each_other_without_a_pause() {
        let full = paces(&[(20_000, true, YOUNG); 30], 10);
        assert_eq!(full[10..], [(0, true); 20]);
    }

    #[test]
    fn whoever_is_seconds_behind_does_not_give_way() {
        assert_eq!(paces(&[(20_000, true, BEHIND); 30], 10), [(0, false); 30]);
        let late = [[(300, false, YOUNG); 11], [(300, false, BEHIND); 11]].concat();
        assert_eq!(
            paces(&late, 10)[10..13],
            [(50, true), (0, false), (0, false)]
        );
    }
}
