//! Pauses, order and limits, without a clock.

use super::*;

const LIMITS: QueueLimits = QueueLimits {
    per_target: 3,
    in_flight: 8,
    retry_min: Duration::from_secs(1),
    retry_max: Duration::from_secs(3600),
};

fn target(name: &str) -> Target {
    Target::of(name, 80)
}

fn offer(queue: &mut DeliveryQueue, id: &str, name: &str, at: Instant) -> Offered {
    queue.offer(OperationId(id), DeliveryKey([0; 16]), &target(name), at)
}

fn picks(queue: &mut DeliveryQueue, now: Instant) -> Vec<Pick> {
    std::iter::from_fn(|| queue.next(now)).collect()
}

#[test]
fn pauses_double_up_to_the_longest_and_differ() {
    let pauses: Vec<_> = (1..40).map(|n| backoff(&LIMITS, n, 7)).collect();
    for (n, pause) in (0..).zip(&pauses) {
        let whole = Duration::from_secs(1)
            .saturating_mul(1 << n.min(30))
            .min(LIMITS.retry_max);
        assert!(
            *pause >= whole * 3 / 4 && *pause <= whole * 5 / 4,
            "{n}: {pause:?}"
        );
    }
    assert_ne!(backoff(&LIMITS, 5, 1), backoff(&LIMITS, 5, 2));
}

#[test]
fn an_operation_has_one_attempt_at_a_time() {
    let now = Instant::now();
    let mut queue = DeliveryQueue::new(LIMITS);
    assert_eq!(offer(&mut queue, "a", "t", now), Offered::Queued);
    let pick = queue.next(now).expect("something to try");
    assert_eq!(offer(&mut queue, "a", "other", now), Offered::UnderWay);
    assert_eq!(queue.next(now), None);
    queue.ended(&pick, TargetReport::Responds, now);
    assert_eq!(
        offer(&mut queue, "a", "other", now),
        Offered::UnderWay,
        "not yet recorded"
    );
    assert!(
        queue.forget(OperationId("a")),
        "the operation must be checked again"
    );
    assert_eq!(offer(&mut queue, "a", "other", now), Offered::Queued);
    // The later of two replaces the queued one.
    assert_eq!(
        queue.offer(
            OperationId("a"),
            DeliveryKey([1; 16]),
            &target("third"),
            now
        ),
        Offered::Queued
    );
    let all = picks(&mut queue, now);
    assert_eq!(all.len(), 1);
    assert_eq!(
        (all[0].key, &all[0].target),
        (DeliveryKey([1; 16]), &target("third"))
    );
}

#[test]
fn a_target_begins_with_one_attempt_and_gets_as_many_as_allowed() {
    let now = Instant::now();
    let mut queue = DeliveryQueue::new(LIMITS);
    for n in 0..10 {
        offer(&mut queue, &format!("op-{n}"), "t", now);
    }
    let first = picks(&mut queue, now);
    assert_eq!(first.len(), 1, "nobody knows it yet");
    queue.ended(&first[0], TargetReport::Responds, now);
    let more = picks(&mut queue, now);
    assert_eq!(more.len(), 3);
    assert_eq!(queue.in_flight(), 3);
    // It fails: one attempt at a time, and only after the pause.
    for pick in &more {
        queue.ended(pick, TargetReport::Fails(None), now);
    }
    assert_eq!(picks(&mut queue, now), []);
    let wake = queue.wake_at().expect("something to try");
    assert!(
        wake > now && wake <= now + Duration::from_millis(1250),
        "they failed together"
    );
    assert_eq!(picks(&mut queue, wake).len(), 1);
}

#[test]
fn dead_targets_delay_no_other_target() {
    let now = Instant::now();
    let mut queue = DeliveryQueue::new(LIMITS);
    for n in 0..40 {
        offer(
            &mut queue,
            &format!("dead-{n}"),
            &format!("dead-{}", n % 20),
            now,
        );
    }
    // Each is attempted and does not respond.
    let mut time = now;
    for _ in 0..20 {
        while let Some(pick) = queue.next(time) {
            queue.ended(&pick, TargetReport::Fails(None), time);
            queue.forget(pick.id());
        }
        time += Duration::from_secs(2);
        for n in 0..40 {
            offer(
                &mut queue,
                &format!("dead-{n}"),
                &format!("dead-{}", n % 20),
                time,
            );
        }
    }
    let later = time + Duration::from_secs(10_000);
    let dead = picks(&mut queue, later);
    assert_eq!(
        dead.len(),
        LIMITS.in_flight / 2,
        "half of the places, whatever waits"
    );
    offer(&mut queue, "alive", "alive", later);
    assert_eq!(
        &*queue.next(later).expect("something to try").operation_id,
        "alive"
    );
}

#[test]
fn a_target_may_ask_for_time_within_bounds() {
    let now = Instant::now();
    for (wish, at_least, at_most) in [(30, 30, 31), (1_000_000, 3600, 3601)] {
        let mut queue = DeliveryQueue::new(LIMITS);
        offer(&mut queue, "a", "t", now);
        offer(&mut queue, "b", "t", now);
        let pick = queue.next(now).expect("something to try");
        queue.ended(
            &pick,
            TargetReport::Fails(Some(Duration::from_secs(wish))),
            now,
        );
        let wake = queue.wake_at().expect("something to try") - now;
        assert!(wake >= Duration::from_secs(at_least) && wake <= Duration::from_secs(at_most));
    }
}

#[test]
fn the_queue_is_bounded_and_the_rest_is_read_from_the_store_later() {
    let now = Instant::now();
    let mut queue = DeliveryQueue::new(LIMITS);
    let fill = |queue: &mut DeliveryQueue, name: &str| {
        let ids = (0..).map(|n| format!("{name}-{n}"));
        let taken = ids.take_while(|id| offer(queue, id, name, now) == Offered::Queued);
        taken.count()
    };
    assert_eq!(fill(&mut queue, "t"), WINDOW_SMALL, "nobody knows it yet");
    assert_eq!(
        offer(&mut queue, "u", "u", now),
        Offered::Queued,
        "another has room"
    );
    assert!(!queue.wants_more());
    let pick = queue.next(now).expect("something to try");
    queue.ended(&pick, TargetReport::Responds, now);
    queue.forget(pick.id());
    assert!(
        queue.wants_more(),
        "it responds, so there is room for more of it"
    );
    assert_eq!(queue.well(), [target("t")].into());
    queue.begin_scan();
    assert!(!queue.wants_more());
    for n in 0..WINDOW {
        offer(&mut queue, &format!("more-{n}"), "t", now);
    }
    let later = now + Duration::from_secs(9);
    assert_eq!(offer(&mut queue, "later", "t", later), Offered::LeftOut);
    assert_eq!(queue.operations.len(), WINDOW + 1);
    let other = queue.next(now).expect("something to try");
    assert_eq!(other.target, target("u"), "it has waited for longer");
    queue.ended(&other, TargetReport::Responds, now);
    queue.forget(other.id());
    // It fails and loses its room.
    let pick = queue.next(now).expect("something to try");
    queue.ended(&pick, TargetReport::Fails(None), now);
    queue.forget(pick.id());
    assert!(queue.operations.len() <= WINDOW_SMALL);
    assert!(!queue.wants_more(), "there is enough of it to try");
    let mut time = now;
    while let Some(wake) = queue.wake_at() {
        time = time.max(wake);
        let pick = queue.next(time).expect("something to try");
        queue.ended(&pick, TargetReport::Responds, time);
        queue.forget(pick.id());
    }
    assert!(queue.wants_more());
    assert!(queue.operations.is_empty() && queue.in_flight() == 0);
}

#[test]
fn deliveries_to_dead_targets_take_no_room_from_others() {
    let now = Instant::now();
    let mut queue = DeliveryQueue::new(LIMITS);
    let mut count = 0;
    for dead in 0..WINDOW_ALL / WINDOW_SMALL + 10 {
        for n in 0..WINDOW_SMALL {
            let id = format!("{dead}-{n}");
            count += usize::from(
                offer(&mut queue, &id, &format!("dead-{dead}"), now) == Offered::Queued,
            );
        }
    }
    assert!(
        (WINDOW_ALL..WINDOW_ALL + 10 * WINDOW_SMALL).contains(&count),
        "{count}"
    );
    for n in 0..AT_LEAST {
        let id = format!("alive-{n}");
        assert_eq!(offer(&mut queue, &id, "alive", now), Offered::Queued);
    }
    assert_eq!(offer(&mut queue, "alive", "alive", now), Offered::LeftOut);
}

#[test]
fn a_delivery_due_sooner_takes_the_place_of_one_due_later() {
    let now = Instant::now();
    let later = now + Duration::from_secs(3600);
    let mut queue = DeliveryQueue::new(LIMITS);
    for n in 0..WINDOW_SMALL {
        offer(&mut queue, &format!("later-{n}"), "t", later);
    }
    assert_eq!(offer(&mut queue, "now", "t", now), Offered::Queued);
    assert_eq!(
        &*queue.next(now).expect("something to try").operation_id,
        "now"
    );
    assert_eq!(queue.operations.len(), WINDOW_SMALL);
}
