//! The laws behind the ledger's promise. Joining states is associative, commutative and
//! idempotent. A document and its anomalies are the same for every permutation of the same
//! events with any repeats. Compared with the plain fold in tests/support/reference.rs, which
//! was written independently of `domain`.

use crate::support::generate::{self, Rng};
use crate::support::reference;
use crate::support::soak;
use opledger::domain::{Event, Operation, OperationId, document};
use opledger::wire::cloudevent::decode_structured;
use opledger::wire::document::{Bodies, bytes};
use opledger::wire::snapshot::{append, decode};
use opledger::wire::time::TimeStyle;
use proptest::prelude::*;
use serde_json::Value;

const ID: &str = "op-1";

fn texts(events: &[Value]) -> Vec<String> {
    events.iter().map(Value::to_string).collect()
}

fn events(texts: &[String]) -> Vec<Event<'_>> {
    let decoded = texts
        .iter()
        .map(|text| (text, decode_structured(text.as_bytes())));
    decoded
        .map(|(text, event)| event.unwrap_or_else(|e| panic!("{e}: {text}")))
        .collect()
}

fn fold<'a>(events: impl IntoIterator<Item = Event<'a>>) -> Operation<'a> {
    let mut op = Operation::default();
    for event in events {
        op.absorb(event);
    }
    op
}

/// Everything that is visible of a state.
fn seen(op: &Operation) -> (Vec<u8>, Option<Vec<u8>>, u8) {
    let document = bytes(OperationId(ID), op, Bodies::Shown, &TimeStyle::default());
    (append(op, None, Vec::new()), document, op.anomalies().0)
}

fn join<'a>(a: &Operation<'a>, b: &Operation<'a>) -> Operation<'a> {
    let mut joined = a.clone();
    joined.join(b.clone());
    joined
}

fn generated(seed: u64, size: usize) -> Vec<Value> {
    generate::operation(&mut Rng::new(seed), ID, size)
}

/// Calls `visit` with every order of `items` (Heap's algorithm).
fn permutations<T: Clone>(items: &mut Vec<T>, k: usize, visit: &mut impl FnMut(&[T])) {
    if k <= 1 {
        return visit(items);
    }
    for i in 0..k {
        permutations(items, k - 1, visit);
        items.swap(if k.is_multiple_of(2) { i } else { 0 }, k - 1);
    }
}

#[test]
fn every_permutation_of_a_small_set_is_the_same() {
    for seed in 0..300 {
        let set = generated(seed, 5);
        let set = &set[..set.len().min(6)];
        let texts = texts(set);
        let events = events(&texts);
        let expected = seen(&fold(events.clone()));
        let mut order: Vec<usize> = (0..events.len()).collect();
        let count = order.len();
        permutations(&mut order, count, &mut |order| {
            let permuted = fold(order.iter().map(|i| events[*i].clone()));
            assert_eq!(seen(&permuted), expected, "seed {seed}, order {order:?}");
        });
        check_against_reference(&fold(events.clone()), set);
    }
}

fn check_against_reference(op: &Operation, set: &[Value]) {
    let ours = bytes(OperationId(ID), op, Bodies::Shown, &TimeStyle::default());
    let ours = ours.map(|bytes| serde_json::from_slice::<Value>(&bytes).expect("JSON"));
    assert_eq!(ours, reference::document(set), "{set:#?}");
    let listed = bytes(OperationId(ID), op, Bodies::LeftOut, &TimeStyle::default());
    let listed = listed.map(|bytes| serde_json::from_slice::<Value>(&bytes).expect("JSON"));
    assert_eq!(
        listed,
        reference::document(set)
            .as_ref()
            .map(reference::without_bodies)
    );
    let mut anomalies: Vec<&str> = op.anomalies().iter().map(|a| a.as_str()).collect();
    anomalies.sort_unstable();
    assert_eq!(anomalies, reference::anomalies(set), "{set:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if soak() { 100_000 } else { 2_000 }) })]

    #[test]
    fn any_order_with_any_repeats_is_the_same(seed: u64, size in 0usize..60) {
        let set = generated(seed, size);
        let texts = texts(&set);
        let events = events(&texts);
        let expected = fold(events.clone());
        check_against_reference(&expected, &set);
        let mut rng = Rng::new(!seed);
        let mut repeated = events.clone();
        for event in &events {
            for _ in 0..rng.below(3) {
                repeated.push(event.clone());
            }
        }
        rng.shuffle(&mut repeated);
        prop_assert_eq!(seen(&fold(repeated)), seen(&expected));
    }

    #[test]
    fn the_spelling_of_json_does_not_matter(seed: u64) {
        let set = generated(seed, 20);
        let mut rng = Rng::new(!seed);
        let plain = texts(&set);
        let spelled: Vec<String> =
            set.iter().map(|event| generate::spelled_differently(&mut rng, event)).collect();
        prop_assert_eq!(events(&plain), events(&spelled));
    }

    #[test]
    fn join_is_associative_commutative_and_idempotent(seed: u64, cut in (0usize..20, 0usize..20)) {
        let texts = texts(&generated(seed, 20));
        let events = events(&texts);
        let (i, j) = (cut.0.min(cut.1).min(events.len()), cut.0.max(cut.1).min(events.len()));
        let [a, b, c] = [&events[..i], &events[i..j], &events[j..]].map(|part| fold(part.to_vec()));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&a, &a), a.clone());
        // Absorbing an event is joining with the state of that event.
        prop_assert_eq!(seen(&join(&join(&a, &b), &c)), seen(&fold(events.clone())));
    }

    #[test]
    fn a_snapshot_reads_back_as_it_was(seed: u64) {
        let texts = texts(&generated(seed, 20));
        let op = fold(events(&texts));
        let row = append(&op, None, Vec::new());
        let (read, apart) = decode(&row).unwrap();
        prop_assert_eq!(&read, &op);
        prop_assert_eq!(apart, None);
        prop_assert_eq!(document(OperationId(ID), &read), document(OperationId(ID), &op));
    }

    #[test]
    fn damaged_snapshots_are_detected_or_read_but_never_panic(bytes: Vec<u8>, seed: u64) {
        let _ = decode(&bytes);
        let texts = texts(&generated(seed, 8));
        let mut row = append(&fold(events(&texts)), None, Vec::new());
        let at = (seed % row.len() as u64) as usize;
        row[at] ^= 1 << (seed % 8);
        let _ = decode(&row);
    }
}
