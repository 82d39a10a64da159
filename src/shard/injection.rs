//! Messages that come whole and not by SMTP: the same rules, the same record, the same promise (FND-09; RFC 5321 3.7.2).
//!
//! The whole text is judged and appended in one step, and the answer is what a client of SMTP would have been told: a
//! receipt once the record is durable, or the reply that refuses it. Who hands messages over bounds how many are on
//! their way. Text is taken in plain form, as BDAT brings it. Nothing here panics on what a client sent.

use std::net::{IpAddr, Ipv4Addr};

use crate::base::ids::InjectionId;
use crate::base::limits;
use crate::base::time::Now;
use crate::config::Role;
use crate::mail::envelope::Envelope;
use crate::mail::trace::{Fixes, HeaderScan, Protocol};
use crate::schedule::fair::Share;
use crate::shard::commit::Waiter;
use crate::shard::intake::Arrival;
use crate::shard::{Effect, Origin, Receipt, Shard};
use crate::smtp::data::PlainScan;
use crate::smtp::reply::{self, Reply};
use crate::smtp::server::{expanded, storage_reply, text_refusal};

impl Shard {
    /// Takes a message in, or says at once why not.
    pub(super) fn inject(
        &mut self,
        now: Now,
        injection: InjectionId,
        origin: Origin,
        envelope: &Envelope,
        body: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        if let Err(refusal) = self.take_injected(now, injection, origin, envelope, body) {
            self.injected(injection, Err(refusal), effects);
        }
    }

    /// Tells whoever injected a message what became of it.
    pub(super) fn injected(
        &mut self,
        injection: InjectionId,
        outcome: Result<Receipt, Reply>,
        effects: &mut Vec<Effect>,
    ) {
        match outcome {
            Ok(_) => {
                self.counters.accepted_messages += 1;
                self.counters.injected_messages += 1;
            }
            Err(_) => self.counters.refused_injections += 1,
        }
        effects.push(Effect::Injected { injection, outcome });
    }

    fn take_injected(
        &mut self,
        now: Now,
        injection: InjectionId,
        origin: Origin,
        envelope: &Envelope,
        body: &[u8],
    ) -> Result<(), Reply> {
        self.may_inject(origin, envelope).map_or(Ok(()), Err)?;
        let (peer, share) = match origin {
            Origin::Client(peer) => (peer.to_canonical(), self.settings.share_of(peer)),
            Origin::Own => (Ipv4Addr::LOCALHOST.into(), Share::default()),
        };
        let table = self.settings.aliases.table.clone();
        let whole = table.map_or(Ok(None), |table| expanded(&table, envelope))?;
        let envelope = whole.as_ref().unwrap_or(envelope);
        let plain_header = HeaderScan::new(true, false).watching(envelope.utf8);
        let (mut plain, mut header) = (PlainScan::default(), plain_header);
        plain.feed(body);
        plain.end();
        header.feed(body);
        let settings = &self.server_settings[Role::Relay as usize];
        text_refusal(settings, plain.bare_line_end(), plain.long_line(), plain.bytes(), header).map_or(Ok(()), Err)?;
        let signed = self.sign_whole(body, share.tenant);
        self.one_click_refusal(share.tenant, signed.as_ref()).map_or(Ok(()), Err)?;
        self.counters.body_bytes += body.len() as u64;
        let tail_bytes =
            if body.len() > limits::CHUNK_MAX_BYTES { body.len() % limits::CHUNK_MAX_BYTES } else { body.len() };
        let (chunked, tail) = body.split_at(body.len() - tail_bytes);
        let mut chunks = Vec::new();
        let mut taken = Ok(());
        for part in chunked.chunks(limits::CHUNK_MAX_BYTES) {
            match self.log.append_chunk(&[part]) {
                Ok(chunk) => chunks.push(chunk),
                Err(why) => {
                    taken = Err(why);
                    break;
                }
            }
        }
        let arrival = Arrival {
            envelope,
            text: plain.text(false),
            header: header.says(),
            body_bytes: plain.bytes(),
            chunks: &chunks,
            tail: &[tail],
            hello: b"",
            peer,
            share,
            protocol: Protocol::Http,
            cipher: None,
            fixes: Fixes::default(),
            signed: signed.as_ref(),
        };
        let taken = taken.and_then(|()| self.take_message(now, &arrival, Waiter::Injection(injection)));
        taken.map_err(|why| {
            self.log.drop_chunks(&chunks);
            self.counters.refused_by_log += 1;
            storage_reply(why)
        })
    }

    /// Why nothing of this kind is taken from this client now, if it is not.
    fn may_inject(&self, origin: Origin, envelope: &Envelope) -> Option<Reply> {
        let may_relay = |peer: IpAddr| self.settings.relay.may_relay(peer.to_canonical());
        if self.draining.is_some() {
            Some(reply::SHUTTING_DOWN)
        } else if matches!(origin, Origin::Client(peer) if !may_relay(peer)) {
            Some(reply::RELAY_DENIED)
        } else if envelope.is_empty() {
            Some(reply::NO_RECIPIENTS)
        } else if envelope.len() > self.settings.relay.recipients_max {
            Some(reply::TOO_MANY_RECIPIENTS)
        } else {
            self.log.no_room().map(storage_reply)
        }
    }
}
