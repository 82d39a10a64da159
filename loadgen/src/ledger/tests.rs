//! Tests of the ledger.

use super::*;

#[test]
fn every_fault_is_told_apart() {
    let ledger = Ledger::new(1, 2);
    for id in 0..6 {
        for recipient in 0..2 {
            ledger.set_fate(id, recipient, Fate::Unknown);
            ledger.set_fate(id, recipient, Fate::Acknowledged);
        }
    }
    ledger.set_fate(6, 0, Fate::Unknown);
    ledger.set_fate(7, 0, Fate::Refused);
    ledger.set_fate(8, 0, Fate::Deferred);
    for id in 0..4 {
        assert!(ledger.arrived(id, 0, true) && ledger.arrived(id, 1, true));
    }
    ledger.arrived(3, 1, true);
    ledger.arrived(3, 1, true);
    ledger.arrived(4, 0, false);
    ledger.bounced(4, 1);
    ledger.arrived(5, 0, true);
    ledger.arrived(6, 0, true);
    ledger.arrived(7, 0, true);
    let tally = ledger.tally();
    assert_eq!((tally.sent, tally.acknowledged, tally.refused, tally.deferred, tally.unknown), (15, 12, 1, 1, 1));
    assert_eq!((tally.arrived, tally.arrived_unacknowledged, tally.arrived_unbidden), (11, 1, 1));
    assert_eq!((tally.lost, tally.duplicated, tally.corrupted, tally.bounced), (1, 2, 1, 1));
    assert!(!tally.clean());
    assert_eq!(ledger.copies().count(), 11);
    assert_eq!(ledger.copies().filter(|(_, copies)| *copies > 1).collect::<Vec<_>>(), [(7, 3)]);
    let suspects = ledger.suspects(10);
    assert_eq!(suspects[0], Suspect { id: 3, recipient: 1, what: "duplicated".into() });
    assert_eq!(suspects[2], Suspect { id: 5, recipient: 1, what: "lost".into() });
}

#[test]
fn unknown_is_never_lost_and_counts_saturate() {
    let ledger = Ledger::new(1, 1);
    ledger.set_fate(0, 0, Fate::Unknown);
    assert!(ledger.tally().clean());
    for _ in 0..20 {
        ledger.arrived(0, 0, true);
    }
    assert_eq!(ledger.tally().duplicated, 6);
    assert!(!ledger.arrived(0, 1, true) && !ledger.arrived(u64::MAX, 0, true) && !ledger.bounced(SLOTS_MAX, 0));
}

#[test]
fn two_files_make_one_ledger() {
    let (sender, sink) = (Ledger::new(9, 1), Ledger::new(9, 1));
    for id in (0..600_000).step_by(1000) {
        sender.set_fate(id, 0, Fate::Acknowledged);
        if id != 5000 {
            sink.arrived(id, 0, true);
        }
    }
    let path = std::env::temp_dir().join(format!("loadgen-ledger-{}", std::process::id()));
    save(&path, [&Ledger::new(3, 4), &sink]).unwrap();
    let mut loaded = load(&path).unwrap();
    assert_eq!(loaded.len(), 2);
    let sink = loaded.pop().unwrap();
    assert!(sender.merge(&sink) && !sender.merge(&loaded[0]));
    let tally = sender.tally();
    assert_eq!((tally.acknowledged, tally.arrived, tally.lost), (600, 599, 1));
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(load(&path).is_err());
    std::fs::write(&path, &bytes[..last]).unwrap();
    assert!(load(&path).is_err());
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_was_acknowledged_since_a_copy_is_told() {
    let ledger = Ledger::new(1, 2);
    ledger.set_fate(0, 0, Fate::Acknowledged);
    ledger.set_fate(0, 1, Fate::Unknown);
    let before = ledger.copy();
    ledger.set_fate(0, 1, Fate::Acknowledged);
    ledger.set_fate(900_000, 1, Fate::Acknowledged);
    ledger.set_fate(7, 0, Fate::Refused);
    assert_eq!(ledger.acknowledged_since(&before), [(0, 1), (900_000, 1)]);
    assert_eq!(before.acknowledged_since(&before), []);
    assert!(ledger.arrived(0, 0, true) && ledger.bounced(900_000, 1));
    assert_eq!(ledger.lost(), [(0, 1)]);
}
