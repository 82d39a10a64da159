//! BDAT: a text that comes in chunks of any sizes, cut anywhere, is taken exactly when the same text by DATA is, and is the
//! same text then (BDT-01, BDT-06; RFC 3030 2).

use ringpost::smtp::data::{Stuffer, unstuff};

use super::server::Session;

const HEAD: &[u8] = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

/// Any bytes are a text.
pub fn run(data: &[u8]) {
    let mut stuffer = Stuffer::new();
    let mut wire: Vec<u8> = stuffer.view(data).flatten().copied().collect();
    wire.extend_from_slice(stuffer.ending());
    let mut by_data = Session::new(true);
    by_data.receive(HEAD);
    by_data.receive(b"DATA\r\n");
    by_data.receive(&[&wire[..], b".\r\n"].concat());

    let sizes = super::pieces(data);
    let mut stream = HEAD.to_vec();
    for (index, chunk) in sizes.iter().enumerate() {
        let last = if index + 1 == sizes.len() { " LAST" } else { "" };
        stream.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
        stream.extend_from_slice(chunk);
    }
    let mut outs = Vec::new();
    for split in [&super::pieces(&stream), &super::crumbs(&stream), &vec![&stream[..]]] {
        let mut by_chunks = Session::new(true);
        split.iter().for_each(|piece| by_chunks.receive(piece));
        outs.push(by_chunks.out);
        match &by_chunks.stored[..] {
            [stored] => {
                assert_eq!(stored.body, data, "chunks are kept as they came");
                // The ending that DATA needs may be what makes it too long, or a bare CR whole.
                assert!(by_data.stored.len() == 1 || data.len() + stuffer.ending().len() > 400);
            }
            stored => {
                assert!(stored.is_empty() && by_data.stored.is_empty() || data.ends_with(b"\r"));
            }
        }
    }
    assert!(outs.iter().all(|out| *out == outs[0]), "a split changes no reply");
    if let [stored] = &by_data.stored[..] {
        let plain: Vec<u8> = unstuff(&stored.body).flatten().copied().collect();
        assert_eq!(plain, [data, stuffer.ending()].concat());
    }
}
