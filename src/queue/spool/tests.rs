//! The spool on a real file system: opened, locked, listed, verified, adopted.

use super::*;
use crate::base::time::UnixMs;
use crate::mail::text::Text;
use crate::queue::{VerdictDraft, VerdictOutcome};

pub(super) fn settings(dir: &Path, shards: u16) -> SpoolSettings {
    SpoolSettings { dir: dir.to_path_buf(), shards, segment_bytes: 256 << 10, segments_max: 8, open: open_file }
}

/// Accepts a message of two recipients with one chunk; delivers the first recipient.
pub(super) fn accept(dir: &Path, start: ShardStart) -> MessageId {
    let mut writer = Writer::open(dir, start, 256 << 10, 8);
    let chunk = writer.until_taken(|log| log.append_chunk(&[b"first\r\n"])).unwrap();
    let recipient = |address| DraftRecipient::open(address);
    let recipients = vec![recipient(&b"a@x.example"[..]), recipient(&b"b@x.example"[..])];
    let draft = Draft {
        copy_of: None,
        arrived: UnixMs(5),
        text: Text::default(),
        body_bytes: 13,
        sender: b"s@x.example",
        recipients: &recipients,
        parameters: &[],
        chunks: &[chunk],
        tail: &[b"last\r\n"],
    };
    let appended = writer.log.append_accept(&draft, &mut |_, out| out.extend_from_slice(b"Received: x\r\n")).unwrap();
    while writer.log.outcome(&appended.ticket) != Commit::Durable {
        writer.turn();
    }
    let ticket = writer.log.append_verdicts(appended.id, &[VerdictDraft::delivered(b"2.0.0 ok")]);
    while writer.log.outcome(&ticket) != Commit::Durable {
        writer.turn();
    }
    appended.id
}

#[test]
fn a_spool_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, starts) = open_spool(&settings(dir.path(), 2)).unwrap();
    assert_eq!(starts.len(), 2);
    assert!(matches!(open_spool(&settings(dir.path(), 2)), Err(SpoolError::InUse(_))));
    drop(lock);
    assert!(open_spool(&settings(dir.path(), 2)).is_ok());
}

/// Fewer shards than before: the messages of the others move, names, states and text kept (QUE-01, QUE-03).
#[test]
fn orphans_are_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, starts) = open_spool(&settings(dir.path(), 3)).unwrap();
    let mut ids: Vec<_> = starts.into_iter().map(|start| accept(dir.path(), start)).collect();
    drop(lock);
    for shards in [3, 1, 2] {
        let (_lock, starts) = open_spool(&settings(dir.path(), shards)).unwrap();
        assert_eq!(starts.len(), usize::from(shards));
        assert!(starts.iter().all(|start| start.damage.is_empty()));
        let listed = list(dir.path()).unwrap();
        let mut found: Vec<_> = listed.iter().map(|listed| listed.message.id).collect();
        found.sort();
        ids.sort();
        assert_eq!(found, ids);
        for &id in &ids {
            let (listed, text) = show(dir.path(), id).unwrap();
            assert_eq!(text, b"Received: x\r\nfirst\r\nlast\r\n");
            let open = &listed.message.recipients;
            assert_eq!((open.len(), open[0].index, &*open[0].address), (1, 1, &b"b@x.example"[..]));
            assert!(listed.shard.0 < shards && listed.to_json().contains("b@x.example"));
        }
        let report = verify(dir.path()).unwrap();
        assert!(report.is_sound() && report.to_string().ends_with("sound"));
        assert_eq!(report.shards.iter().map(|shard| shard.messages).sum::<usize>(), 3);
        assert!(!shard_dir(dir.path(), ShardId(shards)).exists(), "the directory of the orphan is gone");
    }
}

/// Logs read apart and joined, in whatever order, tell the same as read one behind the other: with messages that stand in two
/// logs, one of them open, one settled where the other log does not know of it (QUE-01, QUE-03).
#[test]
fn logs_read_apart_tell_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (_lock, starts) = open_spool(&settings(dir.path(), 3)).unwrap();
    let ids: Vec<_> = starts.into_iter().map(|start| accept(dir.path(), start)).collect();
    for from in [1, 2] {
        let mut starts = recover(dir.path(), 3).unwrap();
        let orphan = starts.remove(from);
        adopt(&settings(dir.path(), 3), &orphan, &mut starts[0]).unwrap();
    }
    let start = recover(dir.path(), 3).unwrap().remove(0);
    let mut writer = Writer::open(dir.path(), start, 256 << 10, 8);
    let verdict = VerdictDraft {
        recipient: 1,
        outcome: VerdictOutcome::Failed,
        attempts: 2,
        due: UnixMs(0),
        delay_reported: false,
        code: 550,
        text: b"5.1.1 no",
    };
    let ticket = writer.log.append_verdicts(ids[2], &[verdict]);
    writer.until_durable(&ticket).unwrap();

    let expected = recover(dir.path(), 3).unwrap();
    let found: Vec<_> = expected.iter().map(|start| start.messages.iter().map(|m| m.id).collect::<Vec<_>>()).collect();
    assert_eq!(found, [vec![ids[0], ids[1]], vec![], vec![]]);
    let expected = format!("{expected:?}");
    assert_eq!(format!("{:?}", recover_at_start(&settings(dir.path(), 3)).unwrap()), expected);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut all = Recovery::new();
        for shard in order {
            let mut apart = Recovery::new();
            read_log(&mut apart, &logs(dir.path()).unwrap()[shard], &mut |path| open_file(path).map(Some)).unwrap();
            all.join(apart);
        }
        assert_eq!(format!("{:?}", all.finish(3)), expected, "joined in the order {order:?}");
    }
}

#[test]
fn damage_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, mut starts) = open_spool(&settings(dir.path(), 1)).unwrap();
    let first = accept(dir.path(), starts.remove(0));
    drop(lock);
    // The verdict's record says that the message's was durable.
    let path = segment_path(dir.path(), ShardId(0), SegmentSlot(0));
    let mut bytes = fs::read(&path).unwrap();
    bytes[first.position.offset_bytes() as usize + 100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let report = verify(dir.path()).unwrap();
    assert!(matches!(report.damage[..], [Damage::Lost { .. }]), "{report}");
    assert!(report.to_json().starts_with("{\"sound\":false"));
}
