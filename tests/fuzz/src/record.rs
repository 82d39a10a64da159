//! Records: any payload is read without harm, what is read is inside it, and what is read and written again reads the same.

use ringpost::base::ids::{MessageId, Position, ShardId};
use ringpost::queue::record::{
    self, AcceptView, CopyOf, CutEntry, Draft, DraftRecipient, HEADER_BYTES, Kind, Start, VerdictDraft, VerdictView,
};

/// Any bytes are a record; the same bytes are a payload of every kind.
pub fn run(data: &[u8]) {
    if let Some((header, payload)) = record::open(data) {
        assert_eq!(Some(header), record::header(data));
        assert_eq!(record::verify(data, header.shard, header.position), Some(payload));
        assert_eq!(record::verify(data, ShardId(!header.shard.0), header.position), None);
    }
    sealed(data);
    let _ = Start::read(data);
    let cuts: Vec<CutEntry> = CutEntry::read(data).collect();
    let mut again = vec![0; CutEntry::payload_bytes(cuts.len())];
    CutEntry::write(&cuts, &mut again);
    assert!(CutEntry::read(&again).eq(cuts));
    if let Some(view) = AcceptView::read(data) {
        accept(data, &view);
    }
    if let Some(view) = VerdictView::read(data) {
        let verdicts: Vec<VerdictDraft<'_>> = view.verdicts().collect();
        let mut again = vec![0; VerdictDraft::payload_bytes(&verdicts)];
        VerdictDraft::write(view.message, &verdicts, &mut again);
        let second = VerdictView::read(&again).expect("it was just written");
        assert_eq!(second.message, view.message);
        assert_eq!(second.verdicts().count(), verdicts.len());
    }
}

/// A record checks out as it was sealed, and with any one bit changed it does not.
fn sealed(data: &[u8]) {
    let mut bytes = [&[0; HEADER_BYTES], data].concat();
    let position = Position::new(7, 4096);
    record::seal(&mut bytes, Kind::Accept, position, Position::new(7, 8), ShardId(5));
    assert_eq!(record::verify(&bytes, ShardId(5), position), Some(data));
    let mut rng = super::rng(data);
    for _ in 0..8 {
        let at = rng.below(bytes.len() as u64) as usize;
        let bit = 1 << rng.below(8);
        bytes[at] ^= bit;
        assert_eq!(record::open(&bytes), None, "byte {at} was changed");
        bytes[at] ^= bit;
    }
    assert!(record::open(&bytes[..bytes.len() - 1]).is_none());
}

fn accept(data: &[u8], view: &AcceptView<'_>) {
    let recipients: Vec<_> = view.recipients().collect();
    let chunks: Vec<_> = view.chunks().collect();
    let (prefix, tail) = (&data[view.prefix.clone()], &data[view.tail.clone()]);
    assert!(data.ends_with(tail) && recipients.len() <= view.recipient_count());
    let drafts: Vec<_> = recipients
        .iter()
        .map(|r| DraftRecipient {
            address: r.address,
            state: r.state,
            attempts: r.attempts,
            due: r.due,
            delay_reported: r.delay_reported,
        })
        .collect();
    let draft = Draft {
        copy_of: view.copies.checked_sub(1).map(|copies| CopyOf { id: view.id, copies }),
        arrived: view.arrived,
        text: view.text,
        body_bytes: view.body_bytes,
        sender: view.sender(),
        recipients: &drafts,
        parameters: view.parameters().0,
        chunks: &chunks,
        tail: &[tail],
    };
    let mut again = vec![0; draft.payload_bytes(prefix.len())];
    draft.write(view.id, prefix, &mut again);
    let second = AcceptView::read(&again).expect("it was just written");
    assert_eq!((second.id, second.copies, second.text), (view.id, view.copies, view.text));
    assert_eq!((second.arrived, second.body_bytes, second.sender()), (view.arrived, view.body_bytes, view.sender()));
    assert_eq!(second.parameters(), view.parameters());
    view.parameters().message();
    view.parameters().recipients().for_each(drop);
    for number in 0..=recipients.len().min(20) {
        assert!(second.recipients_from(number).eq(recipients.iter().copied().skip(number)));
    }
    let _ = (view.recipients_from(1).count(), view.sender_of(1));
    assert!(second.recipients().eq(recipients) && second.chunks().eq(chunks));
    assert_eq!((&again[second.prefix.clone()], &again[second.tail.clone()]), (prefix, tail));
    let _: MessageId = second.id;
}
