//! Codecs: what is written is read, and no bytes make reading panic.

use proptest::prelude::*;

use super::*;

const HERE: Position = Position::new(3, 4096);

fn sealed(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![0; HEADER_BYTES];
    record.extend_from_slice(payload);
    seal(&mut record, kind, HERE, Position::new(2, 1), ShardId(7));
    record
}

proptest! {
    #[test]
    fn accept_round_trip(
        sender in prop::collection::vec(any::<u8>(), 0..80),
        recipients in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..80), 0u8..3, any::<u16>(), any::<u64>(), any::<bool>()), 0..9),
        chunks in prop::collection::vec((any::<u64>(), any::<u32>()), 0..9),
        (prefix, a, b) in (prop::collection::vec(any::<u8>(), 0..80), prop::collection::vec(any::<u8>(), 0..80), prop::collection::vec(any::<u8>(), 0..80)),
        (arrived, body_bytes, text, copies) in (any::<u64>(), any::<u64>(), 0u16..16, 0u16..9),
        parameters in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let states = [RecipientState::Open, RecipientState::Delivered, RecipientState::Failed];
        let id = MessageId { shard: ShardId(7), position: HERE };
        let drafts: Vec<_> = recipients.iter().map(|(address, state, attempts, due, told)| DraftRecipient {
            address, state: states[usize::from(*state)], attempts: *attempts, due: UnixMs(*due), delay_reported: *told,
        }).collect();
        let chunks: Vec<_> = chunks.iter().map(|&(at, length_bytes)| ChunkRef { position: Position(at), length_bytes }).collect();
        let draft = Draft {
            copy_of: (copies > 0).then(|| CopyOf { id, copies: copies - 1 }),
            arrived: UnixMs(arrived), text: Text::from_bits(text), body_bytes, sender: &sender,
            recipients: &drafts, parameters: &parameters, chunks: &chunks, tail: &[&a, &b],
        };
        let mut payload = vec![0xEE; draft.payload_bytes(prefix.len())];
        draft.write(id, &prefix, &mut payload);
        let record = sealed(Kind::Accept, &payload);
        let read = verify(&record, ShardId(7), HERE).expect("whole");
        let view = AcceptView::read(read).expect("well formed");
        prop_assert_eq!((view.id, view.copies, view.text.bits(), view.arrived, view.body_bytes), (id, copies, text, UnixMs(arrived), body_bytes));
        prop_assert_eq!(view.sender(), &sender[..]);
        prop_assert_eq!(view.parameters().0, &parameters[..]);
        prop_assert_eq!(view.chunks().collect::<Vec<_>>(), chunks);
        let read_back: Vec<_> = view.recipients().map(|r| (r.address.to_vec(), r.state as u8, r.attempts, r.due.0, r.delay_reported)).collect();
        prop_assert_eq!(read_back, recipients);
        prop_assert_eq!(&read[view.prefix.clone()], &prefix[..]);
        prop_assert_eq!(&read[view.tail.clone()], [a, b].concat());
    }

    #[test]
    fn verdict_round_trip(verdicts in prop::collection::vec((any::<u32>(), 0u8..3, any::<u16>(), any::<u64>(), any::<u16>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..600)), 0..5)) {
        let outcomes = [VerdictOutcome::Delivered, VerdictOutcome::Failed, VerdictOutcome::Deferred];
        let id = MessageId { shard: ShardId(7), position: HERE };
        let drafts: Vec<_> = verdicts.iter().map(|(recipient, outcome, attempts, due, code, told, text)| VerdictDraft {
            recipient: *recipient, outcome: outcomes[usize::from(*outcome)], attempts: *attempts, due: UnixMs(*due), code: *code, delay_reported: *told,
            text: &text[..text.len().min(VERDICT_TEXT_MAX_BYTES)],
        }).collect();
        let mut payload = vec![0; VerdictDraft::payload_bytes(&drafts)];
        VerdictDraft::write(id, &drafts, &mut payload);
        let view = VerdictView::read(&payload).expect("well formed");
        prop_assert_eq!(view.message, id);
        prop_assert_eq!(view.verdicts().collect::<Vec<_>>(), drafts);
    }

    /// Any bytes, also such as begin well: reading ends, and never panics (QUE-10).
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300), counts in prop::collection::vec(0u8..4, 0..60)) {
        for payload in [&bytes[..], &counts[..]] {
            if let Some(view) = AcceptView::read(payload) {
                let _ = (view.sender(), view.recipients().count(), view.chunks().count());
                let _ = (view.recipients_from(2).count(), view.sender_of(2));
            }
            if let Some(view) = VerdictView::read(payload) {
                let _ = view.verdicts().count();
            }
            let _ = (CutEntry::read(payload).count(), Start::read(payload), header(payload));
            prop_assert!(open(payload).is_none());
        }
    }

    /// Any single flipped bit is found, as is a record in the wrong place or of another shard.
    #[test]
    fn a_flipped_bit_is_found(payload in prop::collection::vec(any::<u8>(), 0..100), bit in any::<prop::sample::Index>()) {
        let mut record = sealed(Kind::Chunk, &payload);
        prop_assert_eq!(verify(&record, ShardId(7), HERE), Some(&payload[..]));
        prop_assert_eq!(verify(&record, ShardId(6), HERE), None);
        prop_assert_eq!(verify(&record, ShardId(7), Position::new(4, 4096)), None);
        let bit = bit.index(record.len() * 8);
        record[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(verify(&record, ShardId(7), HERE), None);
    }
}
